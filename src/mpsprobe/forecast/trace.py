"""The input of a forecast: a run's op uses, module calls and memory in the order of the calls, and its stages.

Stages are prefill and decode, an encoder, the steps of a flow or a denoising loop. They are derived from the
outermost module calls. A sequence of calls that repeats is a loop, and each repetition is an iteration; ops between
two iterations (sampling a token, mixing noise) belong to the earlier one. A first iteration that does much more work
than the second is a stage of its own: the prompt of a generating model.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mpsprobe.run import OpUse, OpVerdict
from mpsprobe.trace.formulas.registry import ITEM_BYTES
from mpsprobe.trace.formulas.traffic import stored_elements

#: A mark in `Trace.order`: the host waited for the device.
WAIT = -1
#: A mark in `Trace.order`: a module was called (`torch.nn.Module.__call__`).
MODULE = -3
#: A mark in `Trace.order`: an optimiser began its step, or ended it.
OPTIMIZER = -4


@dataclass(frozen=True)
class Pass:
    """One call of a module, with the memory in use around it, which is recorded only at depth 1 and else 0.

    Attributes:
        path: The path of the module; `""` for the model itself.
        kind: The class of the module.
        depth: The depth of the call; 1 for a call from outside any module.
        start: The start of its part of `Trace.order`.
        end: The end of its part of `Trace.order`.
        before: The bytes in use when it began.
        after: The bytes in use when it ended.
        peak: The peak of the bytes in use during the call.
        peak_before: The peak of the bytes in use since the previous pass.
        cache_before: The bytes of its key-value cache when it began.
        cache: The bytes of its key-value cache when it ended.
    """

    path: str
    kind: str
    depth: int
    start: int
    end: int
    before: int = 0
    after: int = 0
    peak: int = 0
    peak_before: int = 0
    cache_before: int = 0
    cache: int = 0


@dataclass(frozen=True)
class Trace:
    """The op uses, module calls and memory of a run, in order.

    Attributes:
        uses: The distinct op uses, with verdicts once they are judged.
        order: The positions in `uses`, one for each call; `WAIT` where the host waited, `MODULE` where a module was
            called, `OPTIMIZER` around the step of an optimiser. Other negative numbers are calls that were not
            itemised.
        passes: The recorded module calls, in the order in which they began.
        weights: The bytes in use before there was any input.
        storages: The size in bytes of each storage that `weights` counts.
        inputs: The bytes of the input on the device.
        end: The bytes in use at the end, with results still held.
        peak: The peak of the bytes in use.
        peak_after: The peak of the bytes in use since the last pass.
        gradients: The bytes of the gradients of a training step, which are in use at its peak.
        states: The bytes of the optimiser's states, which `weights` includes.
    """

    uses: Sequence[OpUse]
    order: Sequence[int]
    passes: Sequence[Pass] = field(default_factory=list)
    weights: int = 0
    storages: Sequence[int] = ()
    inputs: int = 0
    end: int = 0
    peak: int = 0
    peak_after: int = 0
    gradients: int = 0
    states: int = 0

    def lighter(self, saved: int) -> Trace:
        """Return the same run with weights that take `saved` bytes less; unused space in their heaps stays the same."""
        if not saved:
            return self
        passes = [
            replace(
                one,
                **{
                    name: max(0, getattr(one, name) - saved)
                    for name in ("before", "after", "peak", "peak_before")
                    if getattr(one, name)
                },
            )
            for one in self.passes
        ]
        return replace(
            self,
            passes=passes,
            weights=max(0, self.weights - saved),
            end=max(0, self.end - saved),
            peak=max(0, self.peak - saved),
            peak_after=max(0, self.peak_after - saved),
        )

    @functools.cached_property
    def largest(self) -> int:
        """Return the bytes of the largest single tensor, a weight or a result of an op; 0 when unknown."""
        written = {one for use in self.uses for one in use.outputs if one.device != "cpu"}
        known = [stored_elements(one) * ITEM_BYTES[one.dtype] for one in written if one.dtype in ITEM_BYTES]
        return max([0, *self.storages, *known])

    def costs(self) -> tuple[list[int], list[int]]:
        """Return FLOPs and bytes of one call of each use; 0 where no formula is known."""
        flops = [(use.flops or 0) // use.count if use.count else 0 for use in self.uses]
        moved = [(use.bytes or 0) // use.count if use.count else 0 for use in self.uses]
        return flops, moved

    def native(self, use: OpUse) -> bool:
        """Return whether GPU kernels run the op use, by its verdict: native or composite."""
        return use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE)


class Caller(enum.Enum):
    """Who calls an op."""

    PYTHON = "Python"
    CPP = "C++"  #: a kernel or a composite op written in C++
    FORWARD = "forward"  #: Python, and autograd keeps a node of it for the backward pass
    BACKWARD = "backward"  #: autograd's engine, in C++


#: The greatest number of consecutive ops that a line of Python calls itself; C++ calls the others.
_FROM_PYTHON = 12


def callers(trace: Trace) -> dict[int, Caller]:
    """Return who calls each op of `Trace.order` that Python does not call plainly, by its position there.

    A recurrent layer or a composite op calls all but the first 12 ops of a run of one Python line, without running
    Python between them, which would be most of an op's cost. In a training step the ops of a model's own calls are its
    forward pass, those between them and the optimiser its backward pass. The ops of an optimiser's step have one line
    too, but torch.optim calls each of them from Python.
    """
    found: dict[int, Caller] = {}
    forward = [(one.start, one.end) for one in trace.passes if one.depth == 1] if trace.gradients else []
    last, run, stepping, ahead = "", 0, False, 0
    for at, p in enumerate(trace.order):
        if p < 0:
            last, run, stepping = "", 0, stepping != (p == OPTIMIZER)
            continue
        if stepping:
            continue
        source = trace.uses[p].source
        run = run + 1 if source == last and source else 0
        last = source
        while ahead < len(forward) and forward[ahead][1] <= at:
            ahead += 1
        if run >= _FROM_PYTHON:
            found[at] = Caller.CPP
        elif forward and at >= forward[0][0]:
            inside = ahead < len(forward) and forward[ahead][0] <= at
            found[at] = Caller.FORWARD if inside else Caller.BACKWARD
    return found


#: The first iteration of a loop is a stage of its own if it has this many times the FLOPs of the second.
_FIRST_DIFFERS = 1.5
#: Repeated module calls inside a single outermost call are its loop if they hold this share of its ops.
_LOOP_SHARE = 0.5
#: The greatest number of calls in the body of a loop.
_LONGEST_BODY = 8
_MODEL = "model"


@dataclass(frozen=True)
class Stage:
    """A stage of a run, with the iterations that it consists of.

    Attributes:
        name: `"prefill"`, `"decode"`, `"expert step"`, `"forward"` and so on.
        turns: The iterations, each as the start and end of its part of `Trace.order`.
        passes: The outermost calls within the stage.
    """

    name: str
    turns: list[tuple[int, int]]
    passes: list[Pass] = field(default_factory=list)

    @property
    def generates(self) -> bool:
        """Return whether each iteration yields a token."""
        return self.name in ("prefill", "decode")

    @property
    def repeats(self) -> int:
        """Return the number of iterations."""
        return len(self.turns)


@dataclass(frozen=True)
class _Loop:
    turns: list[list[Pass]]


def stages(trace: Trace) -> list[Stage]:
    """Return the stages of a run, in order; together they cover all its calls."""
    calls = len(trace.order)
    outermost = [one for one in trace.passes if one.depth == 1]
    if not outermost:
        return [Stage("whole run", [(0, calls)])] if calls else []
    chosen = outermost
    if len(outermost) == 1:
        chosen = _inner_loop(trace, outermost[0]) or outermost
    flops, _ = trace.costs()
    work = [0]
    for position in trace.order:
        work.append(work[-1] + (flops[position] if position >= 0 else 0))
    found: list[tuple[str, list[list[Pass]]]] = []
    for loop in _loops(chosen):
        found += _split(loop, work)
    return _closed(found, calls, outermost)


def _inner_loop(trace: Trace, whole: Pass) -> list[Pass]:
    """Return the calls inside a single outermost one that make up its loop; empty if it has none."""
    for depth in sorted({one.depth for one in trace.passes if one.depth > 1}):
        inner = [one for one in trace.passes if one.depth == depth]
        loops = _loops(inner)
        main = max(loops, key=_extent, default=None)
        if (
            main is not None
            and len(main.turns) > 1
            and _extent(main) > _LOOP_SHARE * (whole.end - whole.start)
        ):
            return inner
    return []


def _extent(loop: _Loop) -> int:
    return sum(one.end - one.start for turn in loop.turns for one in turn)


def _loops(calls: Sequence[Pass]) -> list[_Loop]:
    """Return a sequence of calls as loops; a call that does not repeat is a loop with one iteration."""
    labels = [(one.path, one.kind) for one in calls]
    loops, at = [], 0
    while at < len(calls):
        length, times = 1, 1
        for body in range(1, min(_LONGEST_BODY, (len(calls) - at) // 2) + 1):
            turns = 1
            while labels[at + turns * body : at + (turns + 1) * body] == labels[at : at + body]:
                turns += 1
            if turns > 1 and turns * body > length * times:
                length, times = body, turns
        loops.append(_Loop([list(calls[at + k * length : at + (k + 1) * length]) for k in range(times)]))
        at += length * times
    return loops


def _split(loop: _Loop, work: Sequence[int]) -> list[tuple[str, list[list[Pass]]]]:
    """Return the stages of a loop as names and iterations; a first iteration with much more work is one of its own."""
    turns = loop.turns
    main = max(turns[-1], key=lambda one: work[one.end] - work[one.start])
    name = main.path.rpartition(".")[2]
    caches = [max(one.cache for one in turn) for turn in turns]
    if len(turns) == 1:
        return [(name or ("prefill" if caches[0] else "forward"), turns)]
    generates = caches[-1] > caches[0] > 0
    done = [work[turn[-1].end] - work[turn[0].start] for turn in turns[:2]]
    if done[0] <= _FIRST_DIFFERS * done[1]:
        return [("decode" if generates else f"{name or _MODEL} step", turns)]
    if generates or not name:
        return [("prefill", turns[:1]), ("decode", turns[1:])]
    return [(f"first {name}", turns[:1]), (f"{name} step", turns[1:])]


def _closed(found: list[tuple[str, list[list[Pass]]]], calls: int, outermost: Sequence[Pass]) -> list[Stage]:
    """Return stages without gaps between them: an iteration lasts until the next one begins."""
    starts = [turn[0].start for _, turns in found for turn in turns]
    starts[0] = 0
    ends = [*starts[1:], calls]
    result: list[Stage] = []
    index = 0
    names: dict[str, int] = {}
    for name, turns in found:
        spans = list(zip(starts[index : index + len(turns)], ends[index : index + len(turns)], strict=True))
        index += len(turns)
        inside = [one for one in outermost if spans[0][0] <= one.start < spans[-1][1]]
        stage = Stage(name, spans, inside)
        names[name] = names.get(name, 0) + 1
        result.append(stage if names[name] == 1 else replace(stage, name=f"{name} {names[name]}"))
    return result
