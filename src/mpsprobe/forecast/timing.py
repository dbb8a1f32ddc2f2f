"""Forecast the time of a run on a machine: a floor that nothing can beat, and an expected time with its range.

The floor is the roofline: each call takes its FLOPs at the peak rate or its bytes at the peak bandwidth, whichever
is longer. The expected time follows two clocks through the calls in order, as with a GPU behind a queue: the host's
clock, which dispatches, and the device's, which runs kernels one after the other and waits for work. The clocks
meet where the host waits for a result, and at the end of a sample.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mpsprobe.forecast.grounds import has_detour, share_of, unmeasured_kind
from mpsprobe.forecast.kinds import (
    MOVING,
    VIEW,
    ConvShape,
    NormShape,
    convolution_of,
    dtype_of,
    gathered_of,
    host_kind,
    kind_of,
    norm_of,
    scores_of,
    threadgroups_of,
    tiles_of,
)
from mpsprobe.forecast.machine import Machine, summed
from mpsprobe.forecast.trace import MODULE, OPTIMIZER, WAIT, Caller, Stage, Trace, callers
from mpsprobe.knowledge import speed
from mpsprobe.run import OpUse, OpVerdict, Range, TimePart, Timing
from mpsprobe.trace.formulas.registry import base_name, family

#: A stage is bound by a resource that takes this share of its time, and otherwise by none in particular.
_BOUND_SHARE = 0.6


@dataclass(frozen=True)
class _Cost:
    """The time that one call of an op takes, split by where it is spent.

    Attributes:
        host: The seconds in which the host dispatches the call; the device may compute meanwhile.
        device: The seconds that the kernel takes on the device.
        apart: The seconds of a fallback: the copies to the CPU and back and the computation there. Both the host and
            the device wait for them. 0 for a call on the device.
        by: The bound of the kernel's time: `"compute"`, `"bandwidth"` or `"launch"`.
    """

    host: float
    device: float
    apart: float = 0.0
    by: str = "launch"


class CallCost(NamedTuple):
    """The properties of a call that determine its time; calls that agree in all of them are timed once.

    Attributes:
        op: The overload name.
        kind: The kind of work; see `kinds.kind_of`.
        dtype: The dtype of the arithmetic; see `kinds.dtype_of`.
        host: The kind of call on the host; see `kinds.host_kind`.
        flops: The FLOPs; 0 where no formula is known.
        bytes: The bytes moved; 0 where no formula is known.
        scores: The bytes of attention scores among them, which a fused kernel does not move.
        falls_back: Whether it falls back to the CPU.
        native: Whether a GPU kernel runs it.
        thin: Whether it is a linear layer on several rows of one token each, as when decoding a batch.
        groups: The number of results of an op whose Metal kernel has a threadgroup for each
            (`kinds.threadgroups_of`); else 0.
        gathered: The number of elements that it fetches one by one (`kinds.gathered_of`); else 0.
        tiles: The number of blocks of results of a matmul that the cores share (`kinds.tiles_of`); else 0.
        norm: The shape of a vector norm (`kinds.norm_of`); without results for other ops.
        conv: What MPS computes of a convolution's gradients (`kinds.convolution_of`).
        share: The name of a share of its own (`grounds.share_of`); else empty.
        unmeasured: Its kind where nobody measured that on MPS (`grounds.unmeasured_kind`); else empty.
        caller: Who calls it, which its cost on the host depends on.
    """

    op: str
    kind: str
    dtype: str
    host: str
    flops: int
    bytes: int
    scores: int
    falls_back: bool
    native: bool
    thin: bool = False
    groups: int = 0
    gathered: int = 0
    tiles: int = 0
    norm: NormShape = NormShape()
    conv: ConvShape = ConvShape()
    share: str = ""
    unmeasured: str = ""
    caller: Caller = Caller.PYTHON


@dataclass(frozen=True)
class Work:
    """The calls of a run, independent of the machine that runs them.

    Attributes:
        trace: The run.
        stages: The stages of the run.
        calls: The distinct calls.
        of_use: The position in `calls` of each op use of the trace.
        orders: The part of `Trace.order` of each iteration of each stage, as positions in `calls`.
        turns: FLOPs, bytes and launches of each iteration of each stage.
    """

    trace: Trace
    stages: Sequence[Stage]
    calls: list[CallCost]
    of_use: list[int]
    orders: list[list[list[int]]]
    turns: list[list[tuple[int, int, int]]]

    @classmethod
    def of(cls, trace: Trace, found: Sequence[Stage]) -> Work:
        """Build the work of a run: its distinct calls, and their order in each stage."""
        positions: dict[CallCost, int] = {}
        of_use = []
        for use, flops, moved in zip(trace.uses, *trace.costs(), strict=True):
            falls_back = use.verdict is OpVerdict.FALLBACK
            call = CallCost(
                use.op,
                kind_of(use.op),
                dtype_of(use),
                host_kind(use.op),
                flops,
                moved,
                scores_of(use),
                falls_back,
                trace.native(use),
                _is_thin(use),
                threadgroups_of(use),
                gathered_of(use),
                tiles_of(use, flops),
                norm_of(use),
                convolution_of(use),
                share_of(use),
                unmeasured_kind(use),
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

        flat = [of_use[p] if p >= 0 else p for p in trace.order]
        variants: dict[tuple[int, Caller], int] = {}
        for at, caller in callers(trace).items():
            p = flat[at]
            if (p, caller) not in variants:
                variants[p, caller] = len(calls)
                calls.append(calls[p]._replace(caller=caller))
                launches.append(launches[p])
            flat[at] = variants[p, caller]
        orders = [[flat[start:end] for start, end in stage.turns] for stage in found]
        return cls(trace, found, calls, of_use, orders, [[count(turn) for turn in turns] for turns in orders])

    def moved(self, machine: Machine) -> list[int]:
        """Return the bytes that each call moves on a machine."""
        if machine.holds_scores:
            return [call.bytes for call in self.calls]
        return [max(0, call.bytes - call.scores) for call in self.calls]


def _is_thin(use: OpUse) -> bool:
    """Return whether a use is a linear layer on `[B, 1, K]` with B > 1 (advisory linear-decode-slow)."""
    shape = use.inputs[0].shape if use.inputs else ()
    return base_name(use.op) == "linear" and len(shape) >= 3 and shape[-2] == 1 and math.prod(shape[:-2]) > 1


def timing(work: Work, machine: Machine, turns: Mapping[str, int] | None = None) -> Timing:
    """Return the time of each stage and of a whole sample.

    Args:
        work: The calls of the run.
        machine: The machine.
        turns: The number of iterations of those stages, by name, for which it differs from the run's. They are
            extrapolated linearly from the iterations that were run.
    """
    floors = _floors(work, machine)
    known = machine.complete and _is_known(work, machine)
    costs = _costs(work, machine)
    clocks = _turns(work, costs, machine) if known else []
    vague = _vague(work, costs, machine)
    detour = machine.kind == "mps" and has_detour(work.trace.uses, work.trace.order)
    parts, waits = [], 0.0
    for k, stage in enumerate(work.stages):
        repeats = (turns or {}).get(stage.name, stage.repeats)
        floor = carried(
            [sum([floors[p] for p in order if p >= 0]) for order in work.orders[k]],
            repeats,
        )
        bound = _bound(work.orders[k], costs, machine)
        expected = max(floor, carried(clocks[k], repeats)) if known else None
        open_end = carried([sum([vague.get(p, 0.0) for p in order]) for order in work.orders[k]], repeats)
        flops, moved, launches = (
            round(carried(counts, repeats)) for counts in zip(*work.turns[k], strict=True)
        )
        waits += carried([order.count(WAIT) for order in work.orders[k]], repeats)
        parts.append(
            TimePart(
                name=stage.name,
                repeats=repeats,
                seconds=Range(floor, expected)
                if detour
                else _ranged(floor, expected, open_end, bound, machine),
                bound=bound,
                flops=flops,
                bytes=moved,
                launches=launches,
            )
        )
    time_share, call_share = _native(work, costs)
    return Timing(
        hardware=machine.name,
        basis=machine.basis,
        parts=parts,
        per_sample=summed([part.seconds for part in parts]) if parts else None,
        native_time_share=time_share if known else None,
        native_call_share=call_share,
        share_by_kind=_by_kind(work, costs) if known else {},
        unmeasured=_unmeasured(work, costs) if known and machine.kind == "mps" else {},
        wait_seconds=waits * machine.host.wait if known and machine.queued else None,
        detour=detour,
    )


def carried(turns: Sequence[float], repeats: int) -> float:
    """Return the sum over `repeats` iterations, of which only some were run.

    The extrapolation is a least-squares line through all iterations but the last, or the mean of two or fewer. Ops
    after the loop belong to its last iteration, so what that one takes beyond the line counts once.
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
    """Return whether the machine's rate is known for every kind and dtype of arithmetic in the work."""
    asked = {
        (call.kind, call.dtype)
        for call in work.calls
        if call.flops and call.kind not in MOVING and call.dtype.startswith(("float", "bfloat"))
    }
    return all(machine.rate(kind, dtype, 1.0, 1.0) is not None for kind, dtype in asked)


def _vague(work: Work, costs: Sequence[_Cost], machine: Machine) -> dict[int, float]:
    """Return the seconds of each call of a kind that nobody measured on MPS, by its position in `Work.calls`."""
    if machine.kind != "mps":
        return {}
    return {p: costs[p].apart + costs[p].device for p, call in enumerate(work.calls) if call.unmeasured}


def _ranged(floor: float, expected: float | None, vague: float, bound: str, machine: Machine) -> Range:
    """Return the range of a stage, whose bounds hold four in five measurements; no bounds where none were made.

    Args:
        floor: The seconds that nothing can beat.
        expected: The expected seconds; None when unknown.
        vague: The part of them in kernels that nobody measured, which may take `speed.surprise` times as long.
        bound: The resource that limits the stage.
        machine: The machine.
    """
    if expected is None:
        return Range(floor)
    found = machine.covers(bound)
    if found is None:
        return Range(floor, expected)
    low, high = found.low / machine.slack, found.high * machine.slack
    beyond = max(0.0, speed.surprise() - high) * vague
    return Range(floor, expected, max(floor, min(expected, low * expected)), high * expected + beyond)


def _costs(work: Work, machine: Machine) -> list[_Cost]:
    return [_cost(call, moved, machine) for call, moved in zip(work.calls, work.moved(machine), strict=True)]


def _cost(call: CallCost, moved: int, machine: Machine) -> _Cost:
    times = machine.host
    graphs = machine.graphs(call.op, call.host)
    if call.caller in (Caller.CPP, Caller.BACKWARD):
        host = min(times.inner, times.op(call.host)) + graphs * min(times.inner_graph, times.graph)
    else:
        host = times.op(call.host) + graphs * times.graph
    if call.caller in (Caller.FORWARD, Caller.BACKWARD) and call.kind != VIEW:
        host += times.autograd
    if call.kind == VIEW:
        return _Cost(host, 0.0)
    passing = machine.passes.get(call.share)
    kernel = machine.kernel + graphs * max(0.0, machine.graph_kernel - machine.kernel)
    computing = machine.spread(call.groups) if call.groups and not graphs else 0.0
    if call.gathered:
        computing = call.gathered * machine.gather / max(1, machine.cores)
    if call.norm.results:
        computing = machine.summed_norm(call.norm)
    if call.kind in MOVING:
        streaming = moved / (passing or machine.streams.get(call.kind, machine.stream).at(moved))
    else:
        rate = machine.rate(call.share or call.kind, call.dtype, call.flops, moved)
        if rate is not None:
            computing = call.flops / (rate * machine.filled(call.tiles))
        if any(call.conv):
            computing = machine.gradients(call.conv, call.dtype) or computing
        if call.kind == "attention":
            streaming = moved / machine.attention
        else:
            streaming = moved / (passing or machine.weights.get(call.dtype, machine.weights[""]))
            if call.thin:
                streaming /= machine.thin.get(call.dtype, 1.0)
    device = max(kernel, machine.gap + max(computing, streaming))
    if call.falls_back and machine.queued:
        # the copy to the CPU, its work there (at best at the speed of a copy), and the copy back
        return _Cost(host, device, 2 * machine.host.wait + 2 * moved / machine.copy, "copy")
    by = "launch" if device <= kernel else "compute" if computing >= streaming else "bandwidth"
    return _Cost(host, device, by=by)


def _turns(work: Work, costs: Sequence[_Cost], machine: Machine) -> list[list[float]]:
    """Return the seconds of each iteration of each stage, from the clocks of the host and of the device."""
    times, queued = machine.host, machine.queued
    wait, module, other = times.wait, times.module, times.op("stream")
    plain = [(cost.host, cost.device, cost.apart) for cost in costs]
    listed = _listed(work, machine) if machine.lists else plain
    seconds = plain
    host = device = 0.0
    result = []
    for stage, orders in zip(work.stages, work.orders, strict=True):
        turns = []
        turn = times.turn if stage.generates else 0.0
        for order in orders:
            begun = max(host, device)
            host += turn
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
                elif p == MODULE:
                    host += module
                elif p == WAIT:
                    if queued:
                        host = max(host, device) + wait
                elif p == OPTIMIZER:
                    seconds = listed if seconds is plain else plain
                else:
                    host += other
            turns.append(max(host, device) - begun)
        result.append(turns)
    if queued and (last := _last(work)) is not None and last != WAIT:
        result[-1][-1] += wait  # a sample ends when the host is notified
    return result


def _listed(work: Work, machine: Machine) -> list[tuple[float, float, float]]:
    """Return the costs of calls in an optimiser's step that works on lists of tensors (`Machine.lists`).

    The bytes are those of a step that goes from tensor to tensor, as on MPS, but a few kernels move them, and each
    tensor costs the host no more than an op that C++ calls.
    """
    fastest = max(machine.stream.rates)
    return [
        (min(machine.host.inner, machine.host.op(call.host)), moved / fastest, 0.0)
        for call, moved in zip(work.calls, work.moved(machine), strict=True)
    ]


def _last(work: Work) -> int | None:
    """Return the last entry of a run: the position of a call, or a mark such as `WAIT`; None for an empty run."""
    for orders in reversed(work.orders):
        for order in reversed(orders):
            if order:
                return order[-1]
    return None


def _bound(orders: Sequence[Sequence[int]], costs: Sequence[_Cost], machine: Machine) -> str:
    """Return what limits a stage: dispatch if longer than all kernels, else what takes 60 % of them; else empty."""
    host, times = 0.0, dict.fromkeys(("compute", "bandwidth", "launch", "copy"), 0.0)
    counted = Counter(p for order in orders for p in order)
    for p, n in counted.items():
        if p < 0:
            host += n * (machine.host.module if p == MODULE else 0.0)
            continue
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
    """Return the shares of op time and of calls that run in GPU kernels, without views; None without any calls."""
    time = native_time = 0.0
    calls = native_calls = 0
    once = [_once(cost) for cost in costs]
    for use, p in zip(work.trace.uses, work.of_use, strict=True):
        call = work.calls[p]
        if call.kind == VIEW:
            continue
        seconds = use.count * once[p]
        time, calls = time + seconds, calls + use.count
        if call.native:
            native_time, native_calls = native_time + seconds, native_calls + use.count
    return (native_time / time if time else None, native_calls / calls if calls else None)


def _by_kind(work: Work, costs: Sequence[_Cost]) -> dict[str, float]:
    """Return the share of op time by family, largest first; views, which run no kernel, are not counted."""
    return _shares(work, costs, lambda use, _: family(use.op))


def _unmeasured(work: Work, costs: Sequence[_Cost]) -> dict[str, float]:
    """Return the share of op time by kind that nobody measured on MPS, largest first; empty when there is none."""
    shares = _shares(work, costs, lambda _, call: call.unmeasured)
    return {kind: share for kind, share in shares.items() if kind}


def _shares(work: Work, costs: Sequence[_Cost], name: Callable[[OpUse, CallCost], str]) -> dict[str, float]:
    times: dict[str, float] = defaultdict(float)
    for use, p in zip(work.trace.uses, work.of_use, strict=True):
        call = work.calls[p]
        if call.kind != VIEW:
            times[name(use, call)] += use.count * _once(costs[p])
    total = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return {name: seconds / total for name, seconds in ordered} if total else {}


def _once(cost: _Cost) -> float:
    """Return the seconds of one call in isolation: the host's dispatch or the kernel, whichever is longer."""
    return cost.apart + max(cost.host, cost.device)
