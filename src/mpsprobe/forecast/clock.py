"""Time work on a device: computation, cost on the host, the shortest kernel, waits and copies.

Everything runs synchronised and warmed up several times, and the fastest run counts, because other load on a
machine only makes it slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from mpsprobe.device.real import Device

#: The number of runs of one piece of work, of which the fastest counts, and their time budget in seconds.
_REPEATS, _BUDGET = 7, 0.35


def clock_of(device: Device) -> Callable[[], float]:
    """Return the clock for work on a device: a single CPU thread has its own, which ignores other programs."""
    alone = device.name == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


class Clock:
    """Time work on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.cuda = device.name == "cuda"
        self.now = clock_of(device)

    def seconds(self, work: Callable[[], Any], *, calls: int = 1) -> float:
        """Return the seconds of one of the `calls` calls in `work` on the device; dispatch is hidden if possible."""
        self._run(work, 1, calls)
        first = self._run(work, 1, calls)
        repeats = max(3, min(_REPEATS, int(_BUDGET / max(first, 1e-9))))
        inner = max(1, min(200, int(2e-3 / max(first, 1e-9))))
        times = [self._run(work, inner, calls) / inner for _ in range(repeats)]
        return min(times) / calls

    def _run(self, work: Callable[[], Any], inner: int, calls: int) -> float:
        self.device.synchronize()
        if self.cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda._sleep(
                int(2e5 + 4e4 * inner * calls)
            )  # the queue fills behind it, so there are no gaps between kernels
            begin.record()
            for _ in range(inner):
                work()
            end.record()
            self.device.synchronize()
            return float(begin.elapsed_time(end)) * 1e-3
        start = self.now()
        for _ in range(inner):
            work()
        self.device.synchronize()
        return self.now() - start

    def host(self, work: Callable[[], Any], repeats: int = 25) -> float:
        """Return the time of one call on the host in seconds, without waiting for the device."""
        times = []
        for _ in range(repeats + 2):
            self.device.synchronize()
            start = self.now()
            work()
            times.append(self.now() - start)
        self.device.synchronize()
        return min(times[2:])


def bare(device: Device, clock: Clock) -> float:
    """Return the time of the smallest op on a CPU in seconds, which every timing there includes; 0 on a GPU."""
    x = torch.zeros(1, device=device.torch_device)
    return clock.seconds(lambda: x + 1.0) if device.name == "cpu" else 0.0


def kernel(device: Device, clock: Clock) -> float:
    """Return the shortest time of a kernel behind others in seconds; 0 on a CPU."""
    if device.name == "cpu":
        return 0.0
    x = torch.zeros(64, device=device.torch_device)

    def many() -> None:
        for _ in range(50):
            x.add_(1.0)

    return clock.seconds(many, calls=50)


def wait(device: Device, clock: Clock) -> float:
    """Return the time in seconds for reading a number that the device has just computed; 0 on a CPU."""
    if device.name == "cpu":
        return 0.0
    x = torch.zeros(64, device=device.torch_device)
    alone = clock.host(lambda: x.sum())
    return max(0.0, clock.host(lambda: x.sum().item()) - alone)


def copy(device: Device, clock: Clock) -> float:
    """Return the bandwidth of a copy from the host to the device in bytes/s; within memory on a CPU."""
    x = torch.ones(64 << 20, dtype=torch.uint8)
    if device.name == "cpu":
        y = torch.empty_like(x)
        return x.numel() / clock.seconds(lambda: y.copy_(x))
    y = torch.empty_like(x, device=device.torch_device)
    times = []
    for _ in range(5):
        device.synchronize()
        start = time.perf_counter()
        y.copy_(x)
        device.synchronize()
        times.append(time.perf_counter() - start)
    return x.numel() / min(times)
