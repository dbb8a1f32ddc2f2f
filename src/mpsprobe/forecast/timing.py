"""Time of a run on a machine: a floor that nothing can be below, and what is expected, with its range.

The floor is the roofline: each call takes as long as its FLOPs at the peak rate, or its bytes at the peak bandwidth,
whichever is longer. What is expected follows two clocks through the calls in their order, as a GPU behind a queue has
them: the host's, which dispatches, and the device's, which runs kernels one after the other and waits for work. Where
the host waits for a result, the clocks meet.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpsprobe.forecast.kinds import MOVING, VIEW, dtype_of, kind_of, scores_of
from mpsprobe.forecast.machine import Machine, Spread, summed
from mpsprobe.forecast.stages import Stage
from mpsprobe.forecast.trace import WAIT, Trace
from mpsprobe.run import OpVerdict, Range, TimePart, Timing

#: A stage is bound by what takes this share of its time, and by nothing in particular otherwise.
_BOUND_SHARE = 0.6


class _Luck(enum.Enum):
    """Which end of each spread a run has."""

    BEST = "best"
    EXPECTED = "expected"
    WORST = "worst"

    def delay(self, spread: Spread) -> float:
        return {_Luck.BEST: spread.low, _Luck.EXPECTED: spread.expected, _Luck.WORST: spread.high}[self]

    def rate(self, spread: Spread) -> float:
        return {_Luck.BEST: spread.high, _Luck.EXPECTED: spread.expected, _Luck.WORST: spread.low}[self]


@dataclass(frozen=True)
class _Cost:
    """One call of one use, seconds.

    Attributes:
        host: to dispatch it.
        device: of its kernel.
        apart: computed by the CPU: copies there and back, and its work.
        by: what its kernel's time comes from: `"compute"`, `"bandwidth"` or `"launch"`.
    """

    host: float
    device: float
    apart: float = 0.0
    by: str = "launch"


class Call(NamedTuple):
    """What decides the time of one call. Layers repeat the same ones: a model has a thousand, and ten times the uses.

    Attributes:
        kind, dtype: see `kinds`.
        flops, bytes: 0 where no formula knows them.
        scores: those of the bytes that a fused attention kernel does not move.
        falls_back: the CPU runs it.
        native: a GPU kernel runs it.
    """

    kind: str
    dtype: str
    flops: int
    bytes: int
    scores: int
    falls_back: bool
    native: bool


@dataclass(frozen=True)
class Work:
    """What the calls of a run come to, whatever machine they run on.

    Attributes:
        trace, stages: the run.
        calls: the different ones.
        of_use: position in `calls` of each use of the trace.
        orders: of each turn of each stage: its part of `Trace.order`, in positions in `calls`.
        turns: likewise: FLOPs, bytes, launches.
    """

    trace: Trace
    stages: Sequence[Stage]
    calls: list[Call]
    of_use: list[int]
    orders: list[list[list[int]]]
    turns: list[list[tuple[int, int, int]]]

    @classmethod
    def of(cls, trace: Trace, found: Sequence[Stage]) -> Work:
        """Count it once."""
        positions: dict[Call, int] = {}
        of_use = []
        for use, flops, moved in zip(trace.uses, *trace.costs(), strict=True):
            falls_back = use.verdict is OpVerdict.FALLBACK
            call = Call(
                kind_of(use.op), dtype_of(use), flops, moved, scores_of(use), falls_back, trace.native(use)
            )
            of_use.append(positions.setdefault(call, len(positions)))
        calls = list(positions)
        launches = [int(call.kind != VIEW) for call in calls]

        def count(order: list[int]) -> tuple[int, int, int]:
            itemised = Counter(p for p in order if p >= 0).items()
            return (
                sum(calls[p].flops * n for p, n in itemised),
                sum(calls[p].bytes * n for p, n in itemised),
                sum(launches[p] * n for p, n in itemised),
            )

        orders = [
            [[of_use[p] if p >= 0 else p for p in trace.order[start:end]] for start, end in stage.turns]
            for stage in found
        ]
        return cls(trace, found, calls, of_use, orders, [[count(turn) for turn in turns] for turns in orders])

    def moved(self, machine: Machine) -> list[int]:
        """Bytes of each call on a machine."""
        if machine.holds_scores:
            return [call.bytes for call in self.calls]
        return [max(0, call.bytes - call.scores) for call in self.calls]


def timing(work: Work, machine: Machine, tokens: int | None = None) -> Timing:
    """Time of each stage, and of a sample.

    Args:
        work: the run.
        machine: where.
        tokens: new tokens of a sample, where that differs from the run's: `decode` is carried on to so many, along a
            straight line through its turns. One of them comes out of `prefill`.
    """
    floors = _floors(work, machine)
    known = machine.complete and _is_known(work, machine)
    costs = {luck: _costs(work, machine, luck) for luck in (_Luck if known else (_Luck.EXPECTED,))}
    clocks = {luck: _turns(work, each, machine, luck) for luck, each in costs.items()} if known else {}
    parts = []
    for k, stage in enumerate(work.stages):
        repeats = stage.repeats
        if tokens is not None and stage.name == "decode":
            repeats = max(0, tokens - 1)
        floor = carried(
            [sum([floors[p] for p in order if p >= 0]) for order in work.orders[k]],
            repeats,
        )
        others = (
            max(floor, carried(clocks[luck][k], repeats))
            for luck in ((_Luck.EXPECTED, _Luck.BEST, _Luck.WORST) if known else ())
        )
        flops, moved, launches = (
            round(carried(counts, repeats)) for counts in zip(*work.turns[k], strict=True)
        )
        parts.append(
            TimePart(
                name=stage.name,
                repeats=repeats,
                seconds=Range(floor, *others),
                bound=_bound(work.orders[k], costs[_Luck.EXPECTED]),
                flops=flops,
                bytes=moved,
                launches=launches,
            )
        )
    time_share, call_share = _native(work, costs[_Luck.EXPECTED])
    return Timing(
        hardware=machine.name,
        basis=machine.basis,
        parts=parts,
        per_sample=summed([part.seconds for part in parts]) if parts else None,
        native_time_share=time_share if known else None,
        native_call_share=call_share,
    )


def carried(turns: Sequence[float], repeats: int) -> float:
    """The sum over `repeats` turns, of which some were run.

    A straight line, by least squares, through all turns but the last; of two or fewer their mean. What follows the loop
    belongs to its last turn, so what that one has beyond the line counts once.
    """
    if repeats == len(turns):
        return sum(turns)
    body = turns[:-1] or turns
    n, middle = len(body), (len(body) - 1) / 2
    mean = sum(body) / n
    spread = sum((k - middle) ** 2 for k in range(n))
    slope = sum((k - middle) * (turn - mean) for k, turn in enumerate(body)) / spread if n > 2 else 0.0
    beyond = turns[-1] - (mean + slope * (len(turns) - 1 - middle))
    return repeats * (mean + slope * ((repeats - 1) / 2 - middle)) + (beyond if repeats else 0.0)


def _floors(work: Work, machine: Machine) -> list[float]:
    byte = 1 / machine.bandwidth
    floors = []
    for call, moved in zip(work.calls, work.moved(machine), strict=True):
        peak = machine.peak_of(call.kind, call.dtype)
        floors.append(max(call.flops / peak if peak is not None else 0.0, moved * byte))
    return floors


def _is_known(work: Work, machine: Machine) -> bool:
    """Whether the rates of all arithmetic are known."""
    asked = {
        (call.kind, call.dtype)
        for call in work.calls
        if call.flops and call.kind not in MOVING and call.dtype.startswith(("float", "bfloat"))
    }
    return all(machine.rate(kind, dtype, 1.0, 1.0) is not None for kind, dtype in asked)


def _costs(work: Work, machine: Machine, luck: _Luck) -> list[_Cost]:
    return [
        _cost(call.kind, call.dtype, call.flops, moved, call.falls_back and machine.queued, machine, luck)
        for call, moved in zip(work.calls, work.moved(machine), strict=True)
    ]


def _cost(kind: str, dtype: str, flops: int, moved: int, apart: bool, machine: Machine, luck: _Luck) -> _Cost:
    if kind == VIEW:
        return _Cost(luck.delay(machine.view), 0.0)
    stream_luck, kernel = luck.rate(machine.stream_share), luck.delay(machine.kernel)
    computing = 0.0
    if kind in MOVING:
        streaming = moved / (machine.streams.get(kind, machine.stream).at(moved) * stream_luck)
    else:
        rate = machine.rate(kind, dtype, flops, moved)
        if rate is not None:
            computing = flops / (rate * luck.rate(machine.share(kind, dtype)))
        streaming = moved / (machine.weights * stream_luck)
    device = max(kernel, computing, streaming)
    if apart:
        # to the CPU, its work there at the speed of a copy at best, and back
        seconds = 2 * luck.delay(machine.wait) + 2 * moved / (machine.copy * stream_luck)
        return _Cost(luck.delay(machine.dispatch(kind)), device, seconds, "copy")
    by = "launch" if device <= kernel else "compute" if computing >= streaming else "bandwidth"
    return _Cost(luck.delay(machine.dispatch(kind)), device, by=by)


def _turns(work: Work, costs: Sequence[_Cost], machine: Machine, luck: _Luck) -> list[list[float]]:
    """Seconds of each turn of each stage, by the two clocks."""
    wait, other, queued = luck.delay(machine.wait), luck.delay(machine.op), machine.queued
    seconds = [(cost.host, cost.device, cost.apart) for cost in costs]
    host = device = 0.0
    result = []
    for stage, orders in zip(work.stages, work.orders, strict=True):
        turns = []
        loop = luck.delay(machine.loop) if stage.generates else 0.0
        for order in orders:
            begun = max(host, device)
            host += loop
            for p in order:
                if p >= 0:
                    dispatch, kernel, apart = seconds[p]
                    host += dispatch
                    if apart:
                        host = device = max(host, device) + apart
                    elif not queued:
                        host += kernel
                    elif kernel:
                        device = (device if device > host else host) + kernel
                elif p == WAIT:
                    if queued:
                        host = max(host, device) + wait
                else:
                    host += other
            turns.append(max(host, device) - begun)
        result.append(turns)
    return result


def _bound(orders: Sequence[Sequence[int]], costs: Sequence[_Cost]) -> str:
    """What limits a stage: dispatching, if that takes longer than all kernels; else what most kernel time is."""
    host, times = 0.0, dict.fromkeys(("compute", "bandwidth", "launch", "copy"), 0.0)
    counted = Counter(p for order in orders for p in order if p >= 0)
    for p, n in counted.items():
        cost = costs[p]
        host += n * cost.host
        times[cost.by] += n * (cost.apart or cost.device)
    device = sum(times.values())
    if not device:
        return ""
    if host > device:
        return "launch"
    most = max(times, key=lambda name: times[name])
    return most if times[most] >= _BOUND_SHARE * device else ""


def _native(work: Work, costs: Sequence[_Cost]) -> tuple[float | None, float | None]:
    """Shares of the time and of the calls of ops that a GPU kernel runs; views count for neither."""
    time = native_time = 0.0
    calls = native_calls = 0
    once = [cost.apart + max(cost.host, cost.device) for cost in costs]
    for use, p in zip(work.trace.uses, work.of_use, strict=True):
        call = work.calls[p]
        if call.kind == VIEW:
            continue
        seconds = use.count * once[p]
        time, calls = time + seconds, calls + use.count
        if call.native:
            native_time, native_calls = native_time + seconds, native_calls + use.count
    return (native_time / time if time else None, native_calls / calls if calls else None)
