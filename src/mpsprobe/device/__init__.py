"""The devices of a run: the real ones (mps, cuda, cpu) and the virtual one (emulated)."""
