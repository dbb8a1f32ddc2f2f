"""Reads out of PyTorch's macOS wheels what each release has for MPS, on any system; see README.md.

One command writes one release file: `python -m op_support 2.15`.
"""
