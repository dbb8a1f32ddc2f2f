"""The recorder: one stream of op uses for every device.

On a real device a dispatch mode feeds it (`mpsprobe.trace.dispatch.record`), on the virtual device the kernel
itself does. It keeps distinct uses with a count, not a log of calls, so that its size follows the model and
not the length of the run.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mpsprobe.run import Evidence, OpUse
from mpsprobe.trace.flight import FlightRecorder
from mpsprobe.trace.formulas import add_costs
from mpsprobe.trace.modules import CallNode, ModulePaths
from mpsprobe.trace.signature import describe, freeze, op_name, tensors
from mpsprobe.trace.source import NOWHERE, Site, SourceLines

#: Distinct uses kept at most. A decode step of a 32-layer model has some 200 new shapes, one use is about 2 kB.
LIMIT = 200_000

_UNSEEN = object()


class _Plan:
    """What is known of an overload before any call of it."""

    __slots__ = ("func", "varies")

    def __init__(self, func: Any) -> None:
        self.func = func  # keeps the overload alive, so that its id stays its own
        tags = getattr(func, "tags", ())
        #: The shape of its result follows from values, so it belongs to the signature.
        self.varies = torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags


class Use:
    """One distinct use while it is being counted. What it means is worked out at the end."""

    __slots__ = ("args", "count", "index", "kwargs", "outputs", "path", "plan", "site", "slot")

    def __init__(self, index: int, plan: _Plan, path: str, site: Site, args: Any, kwargs: Any) -> None:
        self.index = index
        self.plan = plan
        self.path = path
        self.site = site
        self.args = args
        self.kwargs = kwargs
        self.outputs: Any = _UNSEEN
        self.count = 0
        self.slot = 0


class Recorder:
    """Collects the distinct op uses of a run.

    Safe to call from several threads. `enter` and `leave` stand around an op; `op` does both after it.

    Attributes:
        paths: follows the modules (see `ModulePaths.following`).

    Args:
        model: names the modules, see `ModulePaths`.
        flight: where the op about to run is written, for a reader that outlives this process.
        limit: distinct uses to keep.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module] | None = None,
        *,
        flight: FlightRecorder | None = None,
        limit: int = LIMIT,
    ) -> None:
        self.paths = ModulePaths(model)
        self._calls = self.paths.calls
        self._lines = SourceLines()
        self._plans: dict[int, _Plan] = {}
        self._numbers = itertools.count()
        self._flight = flight
        self._limit = limit
        self._failures: list[tuple[Use, str]] = []
        #: Takes the calls of uses that are not itemised.
        self._overflow = Use(limit, _Plan(None), "", NOWHERE, (), ())

    @property
    def dropped(self) -> int:
        """Calls of uses that were new after `limit` distinct ones: counted here, not itemised."""
        return self._overflow.count

    def enter(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Use:
        """Count an op that is about to run. Every call costs the run time: keep this short.

        Args:
            func: the overload (or higher-order op).
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            What to hand to `leave` or `failed`.
        """
        plan = self._plans.get(id(func))
        if plan is None:
            plan = self._plans[id(func)] = _Plan(func)
        node = self._calls.stack[-1]
        site = self._lines.find(sys._getframe(1))
        frozen: list[Any] = []
        for value in args:
            # freeze() written out for what most arguments are.
            kind = type(value)
            if kind is torch.Tensor or kind is nn.Parameter:
                try:
                    frozen.append((value.dtype, value.shape, value.stride(), value.device))
                except RuntimeError:  # sparse or nested: no strides
                    frozen.append(freeze(value))
            elif kind is int or value is None:
                frozen.append(value)
            else:
                frozen.append(freeze(value))
        named = tuple([(name, freeze(value)) for name, value in kwargs.items()]) if kwargs else ()
        key = (plan, site, tuple(frozen), named)
        use: Use | None = node.uses.get(key)
        if use is None:
            use = self._new(node, key)
        use.count += 1
        if self._flight is not None:
            use.slot = self._flight.entry(use.index)
        return use

    def leave(self, use: Use, result: Any) -> None:
        """Note that an op returned.

        Args:
            use: what `enter` gave.
            result: what the op returned.
        """
        if self._flight is not None:
            self._flight.ended(use.slot)
        if use.outputs is _UNSEEN:
            use.outputs = freeze(result)
        elif use.plan.varies:
            self._recount(use, freeze(result))

    def failed(self, use: Use, error: BaseException) -> None:
        """Note that an op raised; its call stays counted, without outputs."""
        if self._flight is not None:
            self._flight.ended(use.slot)
        self._failures.append((use, f"{type(error).__name__}: {error}"))

    def op(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, result: Any) -> None:
        """Note an op that has run: `enter` and `leave` in one, for a caller that cannot stand around it."""
        self.leave(self.enter(func, args, kwargs), result)

    def op_uses(self, evidence: Evidence = Evidence.MEASURED) -> list[OpUse]:
        """What was recorded so far, in order of first use, with FLOPs and bytes where a formula is known.

        Args:
            evidence: how these uses are known: the caller knows what kind of run this is.
        """
        return list(self._described(evidence).values())

    def failures(self, evidence: Evidence = Evidence.MEASURED) -> list[tuple[OpUse, str]]:
        """Op uses that raised, with the error as one line, in the order in which they did.

        The model may have caught it: an error here is not yet an error of the run.
        """
        described = self._described(evidence)
        return [(described[_identity(use)], error) for use, error in self._failures]

    def _described(self, evidence: Evidence) -> dict[tuple[Any, ...], OpUse]:
        """Distinct uses by identity: threads, and several ways to the same module, are counted apart."""
        uses = [use for node in self.paths.nodes() for use in list(node.uses.values()) if use.count]
        described: dict[tuple[Any, ...], OpUse] = {}
        for use in sorted(uses, key=lambda use: use.index):
            identity = _identity(use)
            known = described.get(identity)
            if known is not None:
                known.count += use.count
                continue
            func = use.plan.func
            inputs, scalars = describe(func, use.args, dict(use.kwargs))
            described[identity] = OpUse(
                op=op_name(func),
                inputs=inputs,
                outputs=tensors(use.outputs),
                scalars=scalars,
                count=use.count,
                module=use.path,
                source=use.site.text,
                evidence=evidence,
            )
        for op_use in described.values():
            add_costs(op_use)
        return described

    def _new(self, node: CallNode, key: tuple[Any, ...]) -> Use:
        plan, site, args, kwargs = key[:4]
        index = next(self._numbers)
        if index >= self._limit:
            return self._overflow
        use = node.uses[key] = Use(index, plan, node.path, site, args, kwargs)
        if self._flight is not None:
            inputs = " ".join(
                f"{meta.dtype}{list(meta.shape)}" for meta in tensors((*args, *dict(kwargs).values()))
            )
            self._flight.name(index, op_name(plan.func), inputs, node.path, site.text)
        return use

    def _recount(self, use: Use, outputs: Any) -> None:
        """Move a call to the use with these outputs: same arguments, but another shape came out."""
        if outputs == use.outputs:
            return
        use.count -= 1
        node = self._calls.stack[-1]
        key = (use.plan, use.site, use.args, use.kwargs, outputs)
        other = node.uses.get(key)
        if other is None:
            other = self._new(node, key)
            other.outputs = outputs
        other.count += 1


def _identity(use: Use) -> tuple[Any, ...]:
    return (use.plan, use.path, use.site, use.args, use.kwargs, use.outputs)
