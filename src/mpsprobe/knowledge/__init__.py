"""Facts about PyTorch on MPS, Macs and their alternatives: data with provenance, and thin typed readers.

Nothing here imports torch, because a fact must be readable where torch is not installed.
"""
