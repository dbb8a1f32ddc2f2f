"""Which detector looks at which kind of node."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mpsprobe.scan.site import Hit, Site

Detector = Callable[[Any, Site], Iterator[Hit]]
D = TypeVar("D", bound=Detector)

_DETECTORS: dict[type[ast.AST], list[Detector]] = {}


def on(*kinds: type[ast.AST]) -> Callable[[D], D]:
    """Register a function that is shown every node of these kinds that a Mac would run."""

    def register(detector: D) -> D:
        for kind in kinds:
            _DETECTORS.setdefault(kind, []).append(detector)
        return detector

    return register


def detectors() -> dict[type[ast.AST], list[Detector]]:
    """All detectors, by kind of node."""
    import mpsprobe.scan.detect  # noqa: F401, PLC0415 - its modules register themselves

    return _DETECTORS
