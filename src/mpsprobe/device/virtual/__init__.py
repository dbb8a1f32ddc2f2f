"""The virtual MPS device: plain tensors that say `mps:0`, on a machine without MPS.

`emulate` gives them real values and the rules of a Mac; `predict` gives them no memory. docs/virtual-device.md
explains how it works and what it cannot know.
"""
