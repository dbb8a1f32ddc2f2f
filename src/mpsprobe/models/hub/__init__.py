"""Repositories of the Hugging Face Hub and model folders on this machine."""
