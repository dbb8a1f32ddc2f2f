"""Time each outermost module call of an inference on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Steps:
    """Wall times in seconds of outermost calls by the path of the module, in order of appearance.

    A call is outermost when no other module makes it: the language model in each step of `generate`, or the network
    of a flow in each of its steps. The device is synchronised before and after each call.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)


@contextmanager
def outermost_calls(model: nn.Module, synchronize: Callable[[], None]) -> Iterator[Steps]:
    """Time the outermost module calls while the context lasts.

    Args:
        model: The model whose modules are timed.
        synchronize: A function that waits for the device.
    """
    steps = Steps()
    depth = 0
    begun = 0.0

    def enter(_module: nn.Module, _args: Any) -> None:
        nonlocal depth, begun
        if depth == 0:
            synchronize()
            begun = time.perf_counter()
        depth += 1

    def leaver(path: str) -> Callable[..., None]:
        def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                synchronize()
                steps.seconds.setdefault(path, []).append(time.perf_counter() - begun)

        return leave

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leaver(path), always_call=True))
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()
