"""Diffusers pipelines and their parts as targets."""
