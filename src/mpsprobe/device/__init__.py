"""Where tensors live in a run: the real devices (mps, cuda, cpu) and the virtual one (emulated)."""
