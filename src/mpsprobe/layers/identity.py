"""Compare weights across machines: a digest of the tensors, whatever files they are in or how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable

import torch
from safetensors import safe_open

from mpsprobe.models.hub.snapshot import Snapshot

#: Keys of config.json that differ between copies of one model without changing its results.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "_commit_hash")


def weights_digest(snapshot: Snapshot, progress: Callable[[str], None] = lambda _: None) -> str:
    """Return the SHA-256 of name, dtype, shape and bytes of every stored tensor, in the order of their names.

    Args:
        snapshot: The model's files.
        progress: A function that is called with the progress; slow machines take some seconds for each gigabyte.
    """
    digests: dict[str, str] = {}
    for number, name in enumerate(snapshot.files, start=1):
        progress(f"reading weights to identify them: file {number} of {len(snapshot.files)}")
        with safe_open(snapshot.path / name, framework="pt") as file:
            # a list, not a mapping
            digests |= _digests((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118
    return _of_all(digests)


def state_digest(model: torch.nn.Module) -> str:
    """Return the digest of a model's state, for a model whose weights are not in files."""
    return _of_all(_digests((name, tensor.cpu()) for name, tensor in model.state_dict().items()))


def _digests(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    digests = {}
    for name, tensor in tensors:
        digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        digests[name] = digest.hexdigest()
    return digests


def _of_all(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def config_digest(snapshot: Snapshot) -> str:
    """Return the SHA-256 of config.json without the keys that do not change results."""
    kept = {key: value for key, value in snapshot.config.items() if key not in _INCIDENTAL}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
