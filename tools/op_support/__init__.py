"""Read in PyTorch's macOS wheels, on any system, what each release supports on MPS; see README.md.

One command writes one release file: `python -m op_support 2.15`.
"""
