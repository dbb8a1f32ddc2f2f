"""Checks that MPS kernels make of their arguments, with PyTorch's texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]


def for_release(version: tuple[int, int], macos: str) -> dict[str, list[Check]]:
    """Checks by base name of the op."""
    return {}
