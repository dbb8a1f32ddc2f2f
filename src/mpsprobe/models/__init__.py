"""Targets: their profiles, and the adapters that load, sample, prepare, infer and extract."""
