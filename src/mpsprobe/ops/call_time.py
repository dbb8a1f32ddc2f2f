"""Time one call on the device and on the CPU with the same shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from mpsprobe.ops.arguments import ReplayInputs
from mpsprobe.ops.place import Place
from mpsprobe.ops.protocol import CallTiming

#: The time in seconds for timing one call on each side, and the bounds of its repetitions.
_BUDGET_S = 0.02
_LEAST, _MOST = 3, 200


def measure(inputs: ReplayInputs, place: Place, cpu: Callable[..., Any] | None) -> CallTiming:
    """Return the median time of a warm call in seconds, synchronised: the cost for a model that waits for the result.

    Args:
        inputs: The arguments of the op use.
        place: The device.
        cpu: The function that computes the op on the CPU in its own dtype; None when there is none.
    """
    args, kwargs, _ = inputs.make(place.torch_device)
    device_s = _median(lambda: inputs.func(*args, **kwargs), place.synchronize)
    cpu_s = None
    if cpu is not None:
        cpu_args, cpu_kwargs, _ = inputs.make(torch.device("cpu"))
        cpu_s = _median(lambda: cpu(*cpu_args, **cpu_kwargs), _nothing)
    return CallTiming(device_s, cpu_s, _launch_s(place))


def _launch_s(place: Place) -> float:
    """Return the time of the smallest op in seconds: launch and wait."""
    one = torch.zeros(1, device=place.torch_device)
    return _median(lambda: one.add_(1), place.synchronize)


def _median(call: Callable[[], Any], synchronize: Callable[[], None]) -> float:
    with torch.no_grad():
        call()
        synchronize()
        taken: list[float] = []
        until = time.perf_counter() + _BUDGET_S
        while len(taken) < _LEAST or (len(taken) < _MOST and time.perf_counter() < until):
            began = time.perf_counter()
            call()
            synchronize()
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _nothing() -> None:
    pass
