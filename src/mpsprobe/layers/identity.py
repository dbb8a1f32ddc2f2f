"""Whether two machines have the same weights: a digest of the tensors, however they are cut into files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import torch
from safetensors import safe_open

from mpsprobe.models.snapshot import Snapshot

#: Keys of config.json that differ between copies of one model without changing what it computes.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")


def weights_digest(snapshot: Snapshot, progress: Callable[[str], None] = lambda _: None) -> str:
    """SHA-256 over name, dtype, shape and bytes of every stored tensor, by name.

    Args:
        snapshot: the model's files.
        progress: told how far it is; some seconds a gigabyte on slow machines.
    """
    digests: dict[str, str] = {}
    for number, name in enumerate(snapshot.files, start=1):
        progress(f"reading weights to identify them: file {number} of {len(snapshot.files)}")
        with safe_open(snapshot.path / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(key).contiguous()
                digest = hashlib.sha256(f"{key} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                if tensor.numel():
                    digest.update(memoryview(tensor.flatten().view(torch.uint8).numpy()))
                digests[key] = digest.hexdigest()
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def config_digest(snapshot: Snapshot) -> str:
    """SHA-256 of config.json, without what does not change results."""
    kept = {key: value for key, value in snapshot.config.items() if key not in _INCIDENTAL}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
