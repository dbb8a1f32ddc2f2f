"""Record the module calls of a predicted run, with the memory in use before, during and after them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory
from mpsprobe.forecast.trace import MODULE, OPTIMIZER, WAIT, Pass, Trace
from mpsprobe.run import Evidence, OpUse
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.modules import CallNode
from mpsprobe.trace.recorder import Recorder

#: The depth to which module calls are recorded: a model, its backbone, and the layers that it repeats.
DEPTH = 3
#: The names that transformers' models give to the argument with the cache.
_CACHES = ("past_key_values", "past_key_value", "cache_params")


class OrderedObserver(RecorderObserver):
    """Pass events to the recorder, and mark in its order of calls where the host waits."""

    def sync(self, kind: str) -> None:
        """Record a wait of the host at this place among the calls; a fallback gets no mark, because its op shows it."""
        assert self.recorder.order is not None
        if kind != "fallback":  # the op itself shows a fallback
            self.recorder.order.append(WAIT)
        self._note(kind, 0)


class Passes:
    """Record module calls in the order in which they begin, and the memory around the outermost ones.

    Args:
        recorder: A recorder made with `ordered`.
        memory: The memory of the emulated device, whose peaks are exact from here on.

    Attributes:
        peak: The greatest number of bytes in use so far.
        weights: The bytes in use when the recording begins, which the model takes.
        inputs: The bytes of the input; 0 before `fed`.
    """

    def __init__(self, recorder: Recorder, memory: UnifiedMemory) -> None:
        self._recorder = recorder
        self._memory = memory
        self._noted: list[Pass] = []
        self.peak, self.weights = 0, memory.mark()[0]
        self._storages = memory.lasting()
        self.inputs = 0

    def fed(self) -> None:
        """Record the bytes that the input takes, which must be on the device by now."""
        in_use, _ = self._memory.mark()
        self.inputs = in_use - self.weights

    def each(self) -> None:
        """Mark a module call in the recorder's order of calls."""
        assert self._recorder.order is not None
        self._recorder.order.append(MODULE)

    @contextlib.contextmanager
    def stepping(self) -> Iterator[None]:
        """Mark the beginning and end of each step of any optimiser in the order of calls, while the block runs."""
        order = self._recorder.order
        assert order is not None

        def mark(*_: Any) -> None:
            order.append(OPTIMIZER)

        begin = register_optimizer_step_pre_hook(mark)
        end = register_optimizer_step_post_hook(mark)
        try:
            yield
        finally:
            begin.remove()
            end.remove()

    @contextlib.contextmanager
    def around(self, node: CallNode, depth: int, kwargs: Mapping[str, Any]) -> Iterator[None]:
        """Record a module call; at depth 1 also the memory before, during and after it, and the size of its cache.

        Args:
            node: The call.
            depth: The number of module calls around it, itself included.
            kwargs: Its named arguments, among which a cache is searched for.
        """
        order = self._recorder.order
        assert order is not None
        begun = Pass(self._path(node), self._kind(node), depth, len(order), len(order))
        if depth == 1:
            before, peak_before = self._mark()
            begun = replace(begun, before=before, peak_before=peak_before, cache_before=_cached(kwargs))
        index = len(self._noted)
        self._noted.append(begun)
        try:
            yield
        finally:
            done = replace(begun, end=len(order))
            if depth == 1:
                after, peak = self._mark()
                done = replace(done, after=after, peak=peak, cache=_cached(kwargs))
            self._noted[index] = done

    def trace(self, evidence: Evidence) -> tuple[list[tuple[OpUse, int]], Trace]:
        """Return the recorder's op uses with their flags, and a trace of all calls in order.

        Args:
            evidence: The evidence of the op uses.
        """
        end, peak_after = self._mark()
        flagged = self._recorder.flagged_uses(evidence)
        trace = Trace(
            uses=[use for use, _ in flagged],
            order=self._recorder.sequence(),
            passes=self._noted,
            weights=self.weights,
            storages=self._storages,
            inputs=self.inputs,
            end=end,
            peak=max(self.peak, peak_after),
            peak_after=peak_after,
        )
        return flagged, trace

    def _path(self, node: CallNode) -> str:
        return self._recorder.paths.path(node)

    @staticmethod
    def _kind(node: CallNode) -> str:
        module = node.module
        return (module if isinstance(module, type) else type(module)).__name__

    def _mark(self) -> tuple[int, int]:
        in_use, peak = self._memory.mark()
        self.peak = max(self.peak, peak)
        return in_use, peak


def _cached(kwargs: Mapping[str, Any]) -> int:
    return max(_nbytes(kwargs.get(name)) for name in _CACHES)


def _nbytes(value: Any) -> int:
    """Return the size in bytes of the distinct storages of the tensors in a cache; 0 for anything else."""
    storages: dict[int, int] = {}
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            if one.device.type != "meta":
                storage = one.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif _is_cache(one) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(vars(one).values())
    return sum(storages.values())


def _is_cache(value: Any) -> bool:
    """Return whether an object is of a class of transformers but no module, as caches and their layers are."""
    mine = type(value).__module__.startswith("transformers") and hasattr(value, "__dict__")
    return mine and not isinstance(value, (torch.nn.Module, type))
