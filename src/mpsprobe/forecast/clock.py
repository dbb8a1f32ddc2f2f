"""Time work on a device, and check whether the host kept its speed meanwhile.

Work is run several times, with the device synchronised and warmed up before, and the fastest run counts, because
other load on a machine only makes it slower. Other programs, other guests of a rented machine, heat and power
saving make a host slower for seconds to hours. One timing does not show that. The same work timed again and again,
with other measurements between, does: where a round takes longer than the fastest one, the host changed, not the
work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsprobe.device.real import Device

#: The number of runs of one piece of work, of which the fastest counts, and their time budget in seconds.
_REPEATS, _BUDGET = 7, 0.35


def clock_of(device: Device) -> Callable[[], float]:
    """Return the clock for work on a device: the thread's CPU time for one CPU thread, else the elapsed time."""
    alone = device.name == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter


class Clock:
    """Time pieces of work on one device with the clock that suits it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.cuda = device.name == "cuda"
        self.now = clock_of(device)

    def seconds(self, work: Callable[[], Any], *, calls: int = 1) -> float:
        """Return the time of one call in seconds while the device is kept busy; `work` makes `calls` calls."""
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
        """Return the time that the host takes for a call of `work` in seconds, without waiting for the device."""
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
    """Return the time of a small kernel in a queue of such kernels in seconds; 0 on a CPU."""
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
    """Return the bandwidth of a copy from the host to the device in bytes/s; on a CPU, of a copy within memory."""
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


#: A round that takes this much longer than the fastest has run on a slower host: timing itself is good to some 5 %.
STILL = 1.1
#: The number of rounds that must agree with the fastest within `STILL`; until then more are timed, up to `MOST_ROUNDS`.
AGREEING = 3
MOST_ROUNDS = 9
#: Past this no forecast is worth its range: the calibration of a GPU is refused.
REFUSED = 2.0


@dataclass
class TimedRounds:
    """Pieces of work, each of which is timed once in every round.

    Attributes:
        work: The pieces of work by name; a call returns its time in seconds.
        taken: The times in seconds of each round, in the order of `work`.
    """

    work: dict[str, Callable[[], float]]
    taken: list[list[float]] = field(default_factory=list)

    def once(self) -> None:
        """Time each piece of work once, as one more round."""
        self.taken.append([time() for time in self.work.values()])

    def until_still(self) -> None:
        """Time more rounds until `AGREEING` of them agree with the fastest, or there are `MOST_ROUNDS`."""
        while len(self.taken) < MOST_ROUNDS and sum(f <= STILL for f in factors(self.taken)) < AGREEING:
            self.once()

    def typical(self) -> dict[str, float]:
        """Return the time in seconds of each piece of work: the median of the rounds that agree with the fastest."""
        agreeing = [
            times for times, slower in zip(self.taken, factors(self.taken), strict=True) if slower <= STILL
        ]
        return dict(zip(self.work, map(statistics.median, zip(*agreeing, strict=True)), strict=True))

    def unsteady(self) -> float:
        """Return the ratio of the slowest to the fastest round, after leaving out one outlier in every five rounds."""
        return unsteadiness(factors(self.taken))


def factors(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the slowdown of each round relative to the fastest round, 1 for that one.

    A round's slowdown is the median over its pieces of work of the time relative to the best time of that piece.

    Args:
        rounds: The times in seconds of the pieces of work of each round, all in one order.
    """
    if not rounds or not rounds[0]:
        return [1.0] * len(rounds)
    best = [min(times) for times in zip(*rounds, strict=True)]
    medians = [
        statistics.median(took / least for took, least in zip(times, best, strict=True)) for times in rounds
    ]
    return [one / min(medians) for one in medians]


def unsteadiness(found: Sequence[float]) -> float:
    """Return the largest factor after leaving out one in five, because a momentary disturbance is no drift."""
    kept = sorted(found)[: len(found) - len(found) // 5]
    return kept[-1] if kept else 1.0


def remark(unsteady: float) -> str:
    """Return one line about a host that did not keep its speed; empty for one that did."""
    if unsteady <= STILL:
        return ""
    return (
        f"The machine was not still: the same work took up to {unsteady:.1f} times as long in one round as in another, "
        "or as in the calibration before. "
        "The ranges of forecasts are wider by that; close other programs and calibrate again."
    )
