"""Which ATen ops PyTorch's operator tests (OpInfo) run; recorded by `op_support.opinfo_ops`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import msgspec


@functools.cache
def recorded() -> Mapping[str, tuple[str, ...]]:
    """OpInfo name, a colon, its variant -> the overloads that its samples run on a CPU, without `aten::`."""
    path = Path(__file__).parent / "data" / "ops" / "opinfo.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[str, ...]])


def run_by(function: str) -> tuple[str, ...]:
    """Qualified overloads that a Python function runs, by its name below `torch`: `nn.functional.gelu`."""
    found = {op for name, called in recorded().items() if name.partition(":")[0] == function for op in called}
    return tuple(f"aten::{op}" for op in sorted(found))
