"""The registry of detectors, by the kind of node that they are shown.

Most nodes are calls, and most detectors look for a few names. Calls are therefore looked up by the last part of the
callee's name, which keeps the walk at one dictionary access a call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mpsprobe.scan.position import Hit, Position

Detector = Callable[[Any, Position], Iterator[Hit]]
D = TypeVar("D", bound=Detector)


@dataclass(frozen=True)
class Registry:
    """All registered detectors.

    Attributes:
        nodes: Detectors by kind of node.
        calls: Detectors by the last part of the callee's name: `"to"` for `x.to(...)`.
        torch_calls: Detectors that are shown every call of a function of torch.
        in_place_calls: Detectors that are shown every call of a method whose name ends in `_`.
    """

    nodes: dict[type[ast.AST], list[Detector]] = field(default_factory=dict)
    calls: dict[str, list[Detector]] = field(default_factory=dict)
    torch_calls: list[Detector] = field(default_factory=list)
    in_place_calls: list[Detector] = field(default_factory=list)


#: All registered detectors; complete once `scan.walk` has imported them.
REGISTRY = Registry()


def on(*kinds: type[ast.AST]) -> Callable[[D], D]:
    """Return a decorator that registers a detector for every node of these kinds that a Mac would run."""

    def register(detector: D) -> D:
        for kind in kinds:
            REGISTRY.nodes.setdefault(kind, []).append(detector)
        return detector

    return register


def on_call(*names: str) -> Callable[[D], D]:
    """Register a function that is shown calls of functions and methods of these names."""

    def register(detector: D) -> D:
        for name in names:
            REGISTRY.calls.setdefault(name, []).append(detector)
        return detector

    return register


def on_torch_call(detector: D) -> D:
    """Register a function that is shown every call of `torch.*`."""
    REGISTRY.torch_calls.append(detector)
    return detector


def on_in_place_call(detector: D) -> D:
    """Register a function that is shown every call of a method that ends in `_`."""
    REGISTRY.in_place_calls.append(detector)
    return detector
