"""The recorder: one stream of op uses for every device.

On a real device a dispatch mode calls it (`mpsprobe.trace.dispatch.record`), on the virtual device the kernel
itself does. It keeps distinct uses with a count rather than a log of calls, so that its size depends on the model
and not on the length of the run.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import nn

from mpsprobe.device.backward import ForwardPlaces
from mpsprobe.errors import text_of
from mpsprobe.run import Evidence, OpUse
from mpsprobe.trace.flight import FlightRecorder
from mpsprobe.trace.formulas import add_costs
from mpsprobe.trace.modules import CallNode, ModulePaths
from mpsprobe.trace.signature import (
    PLANS,
    RecordingPlan,
    brief,
    describe,
    freeze,
    make_plan,
    op_name,
    tensors,
    unflatten,
)
from mpsprobe.trace.source import NOWHERE, CallSite, find_site

#: The greatest number of distinct uses. A decode step of a 32-layer model has some 200 new shapes; a use takes some 2
#: kB.
LIMIT = 200_000
#: A mark in `Recorder.sequence`: a call of a use beyond the limit.
LEFT_OUT = -2

# Names of this module, which are found faster than attributes of other modules.
_Tensor, _Parameter, _getframe = torch.Tensor, nn.Parameter, sys._getframe
_grad_enabled = torch.is_grad_enabled
_UNSEEN = object()


class Use(msgspec.Struct, eq=False):
    """One distinct use while it is being counted; its meaning is worked out at the end.

    It is a msgspec Struct, which is created in C, because most ops of a first pass are the first of their kind.

    Attributes:
        index: The running number of the use.
        node: The innermost module.
        key: The plan, the source line, the arguments (flat, see `unflatten`) and the keyword arguments; also the
            result where it belongs to the signature.
        outputs: The frozen result.
        count: The number of calls.
        slot: The slot of the last call in the flight recorder.
        flags: The flags that the virtual device passed for the calls, or-ed.
    """

    index: int
    node: CallNode
    key: tuple[Any, ...]
    outputs: Any = _UNSEEN
    count: int = 0
    slot: int = 0
    flags: int = 0


class Recorder:
    """Collect the distinct op uses of a run.

    It is safe to call from several threads. `enter` and `leave` go before and after an op; `op` does both
    after it.

    Attributes:
        paths: The module paths (see `ModulePaths.following`).

    Args:
        model: The model that names the modules; see `ModulePaths`.
        flight: The flight recorder for the op about to run, whose file outlives this process.
        limit: The greatest number of distinct uses to keep.
        ordered: Whether to keep the order of calls too, for `sequence` (4 bytes a call; only `op` adds to it).
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module] | None = None,
        *,
        flight: FlightRecorder | None = None,
        limit: int = LIMIT,
        ordered: bool = False,
    ) -> None:
        self.paths = ModulePaths(model)
        self._flight = flight
        self._begin = flight.begin if flight is not None else None
        self._end = flight.end if flight is not None else None
        self._limit = limit
        self._numbers = itertools.count()
        self._failures: list[tuple[Use, str]] = []
        self._forward: ForwardPlaces[tuple[CallNode, CallSite]] = ForwardPlaces()
        #: Running numbers of the uses in the order of their calls; -1, -3 and -4 are free for the caller's marks.
        self.order: array[int] | None = array("i") if ordered else None
        #: Counts the calls of uses that are not itemised.
        self._overflow = Use(limit, CallNode(None, None), (make_plan(None), NOWHERE, (), ()), outputs=())

    @property
    def dropped(self) -> int:
        """Return the number of calls that were counted but not itemised, because there were more than `limit` uses."""
        return self._overflow.count

    def enter(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Use:
        """Count an op that is about to run.

        Args:
            func: The overload (or higher-order op).
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            The use to pass to `leave` or `failed`.
        """
        plan = PLANS.get(id(func)) or make_plan(func)
        return self.count(self.paths.calls.stack[-1], plan, args, kwargs)

    def count(
        self, node: CallNode, plan: RecordingPlan, args: Sequence[Any], kwargs: Mapping[str, Any] | None
    ) -> Use:
        """Count an op like `enter`, for a caller that knows the module and the plan.

        It must be fast, because it runs for every op. The search for the source line begins at the caller's caller.

        Args:
            node: The innermost module.
            plan: The plan of the overload.
            args: The positional arguments.
            kwargs: The keyword arguments.

        Returns:
            The use to pass to `leave` or `failed`.
        """
        # The common kinds of arguments are handled here, flat: a nested tuple for each tensor, and a call of freeze(),
        # would cost more than everything else.
        flat: list[Any] = []
        for value in args:
            kind = type(value)
            if kind is _Tensor or kind is _Parameter:
                try:
                    flat += (value.dtype, value.shape, value.stride(), value.device)
                except RuntimeError:  # sparse or nested: no strides
                    flat.append(freeze(value))
            elif kind is int:
                flat.append(value)
            else:
                flat.append(freeze(value))
        named = tuple([(name, freeze(value)) for name, value in kwargs.items()]) if kwargs else ()
        # not _getframe(2): in a thread of autograd the caller may have no caller
        site = find_site(_getframe(1).f_back)
        if self._forward.places or _grad_enabled():
            node, site = self._with_gradients(node, site)
        key = (plan, site, tuple(flat), named)
        use: Use | None = node.uses.get(key)
        if use is None:
            use = self._new(node, key)
        use.count += 1
        begin = self._begin
        if begin is not None:
            use.slot = begin(use.index)
        return use

    def leave(self, use: Use, result: Any) -> Use:
        """Record that an op returned.

        Args:
            use: The use that `enter` returned.
            result: The result of the op.

        Returns:
            The use that the call counts for. It is another one than `use` where the op's result depends on values and
            the same arguments gave another shape before.
        """
        if self._end is not None:
            self._end(use.slot, use.index)
        if use.outputs is _UNSEEN:
            use.outputs = freeze(result)
        elif use.key[0].varies:
            return self._recount(use, freeze(result))
        return use

    def failed(self, use: Use, error: BaseException) -> None:
        """Record that an op raised; its call stays counted, without outputs."""
        if self._end is not None:
            self._end(use.slot, use.index)
        self._failures.append((use, f"{type(error).__name__}: {text_of(error)}"))

    def op(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        result: Any,
        flags: int = 0,
    ) -> None:
        """Record an op that has run, for a caller that cannot wrap it: the virtual device's kernel.

        Args:
            func: The overload.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            result: Its result.
            flags: The device's flags for this call, kept for `flagged_uses`.
        """
        plan = PLANS.get(id(func)) or make_plan(func)
        use = self.count(self.paths.calls.stack[-1], plan, args, kwargs)
        use.flags |= flags
        use = self.leave(use, result)
        if self.order is not None:
            self.order.append(use.index)

    def again(
        self, kind: object, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None, result: Any
    ) -> None:
        """Record an op that has run, whose kind of call the device identifies by one object.

        Looking up that object and the line takes a third of the time for making and hashing the whole key.

        Args:
            kind: The same object for every call of this overload with equal arguments.
            func: The overload; see `op`.
            args: The positional arguments of the call; see `op`.
            kwargs: The keyword arguments of the call; see `op`.
            result: Its result; see `op`.
        """
        node = self.paths.calls.stack[-1]
        site = find_site(_getframe(1).f_back)  # the caller is the device's kernel
        if self._forward.places or _grad_enabled():
            node, site = self._with_gradients(node, site)
        key = (kind, site)
        use: Use | None = node.uses.get(key)
        if use is None or self._begin is not None:
            plan = PLANS.get(id(func)) or make_plan(func)
            use = self.leave(self.count(node, plan, args, kwargs), result)
            node.uses[key] = use
        else:
            use.count += 1
        if self.order is not None:
            self.order.append(use.index)

    def op_uses(self, evidence: Evidence = Evidence.MEASURED) -> list[OpUse]:
        """Return the op uses recorded so far, in order of first use, with FLOPs and bytes where a formula is known.

        Args:
            evidence: The evidence of these uses, which depends on the kind of run.
        """
        return [use for use, _ in self.flagged_uses(evidence)]

    def flagged_uses(self, evidence: Evidence) -> list[tuple[OpUse, int]]:
        """Return the op uses as `op_uses` does, each with the flags that were passed to `op`."""
        return list(self._described(evidence).values())

    def sequence(self) -> array[int]:
        """Return the calls in order, each as a position in `flagged_uses`; marks stay as they are.

        Calls beyond the limit have no position and are `LEFT_OUT`.

        Raises:
            ValueError: The recorder was not made with `ordered`.
        """
        if self.order is None:
            raise ValueError("this recorder keeps no order")
        positions: dict[tuple[Any, ...], int] = {}
        place: dict[int, int] = {}
        for use in self._counted():
            place[use.index] = positions.setdefault(self._identity(use), len(positions))
        return array("i", [n if n < 0 else place.get(n, LEFT_OUT) for n in self.order])

    def failures(self, evidence: Evidence = Evidence.MEASURED) -> list[tuple[OpUse, str]]:
        """Return the op uses that raised, each with the error as one line, in order.

        The model may have caught the error, so it is not necessarily an error of the run.
        """
        described = self._described(evidence)
        known = [(described.get(self._identity(use)), error) for use, error in self._failures]
        return [(found[0], error) for found, error in known if found is not None]  # None: beyond the limit

    def _described(self, evidence: Evidence) -> dict[tuple[Any, ...], tuple[OpUse, int]]:
        """Return the distinct uses and their flags by identity.

        Uses of several threads, or of a module that was called from several places, are merged.
        """
        described: dict[tuple[Any, ...], tuple[OpUse, int]] = {}
        # by call, whatever its module: layers repeat the same calls some twelve times
        calls: dict[tuple[Any, ...], OpUse] = {}
        for use in self._counted():
            identity = self._identity(use)
            known = described.get(identity)
            if known is None:
                call = calls.get(signature := (use.key[0], *use.key[2:4], use.outputs))
                if call is None:
                    call = calls[signature] = self._describe(use)
                known = self._of_call(call, identity[0], use.key[1].text, evidence), 0
            op_use, flags = known
            op_use.count += use.count
            described[identity] = (op_use, flags | use.flags)
        for op_use, _ in described.values():
            op_use.flops = None if op_use.flops is None else op_use.flops * op_use.count
            op_use.bytes = None if op_use.bytes is None else op_use.bytes * op_use.count
        return described

    def _counted(self) -> list[Use]:
        # `again` stores a use under two keys
        uses = {
            use.index: use for node in self.paths.nodes() for use in list(node.uses.values()) if use.count
        }
        return [use for _, use in sorted(uses.items())]

    def _identity(self, use: Use) -> tuple[Any, ...]:
        """Return a key that is equal for uses that an `OpUse` does not distinguish."""
        return (self.paths.path(use.node), *use.key[:4], use.outputs)

    @staticmethod
    def _describe(use: Use) -> OpUse:
        """Return the `OpUse` of one call of a use, without module and line, with its FLOPs and bytes."""
        plan, _, args, kwargs = use.key[:4]
        inputs, scalars = describe(plan.func, unflatten(args), dict(kwargs))
        call = OpUse(op=op_name(plan.func), inputs=inputs, outputs=tensors(use.outputs), scalars=scalars)
        add_costs(call)
        return call

    @staticmethod
    def _of_call(call: OpUse, path: str, source: str, evidence: Evidence) -> OpUse:
        """Return a use of such a call at one line of a module; its count is added later."""
        return OpUse(
            op=call.op,
            inputs=list(call.inputs),
            outputs=list(call.outputs),
            scalars=dict(call.scalars),
            count=0,
            module=path,
            source=source,
            evidence=evidence,
            flops=call.flops,
            bytes=call.bytes,
        )

    def _new(self, node: CallNode, key: tuple[Any, ...], outputs: Any = _UNSEEN) -> Use:
        index = next(self._numbers)
        if index >= self._limit:
            return self._overflow
        use = node.uses[key] = Use(index, node, key, outputs)
        if self._flight is not None:
            plan, site, args, kwargs = key[:4]
            self._flight.name(
                index, op_name(plan.func), brief((args, kwargs)), self.paths.path(node), site.text
            )
        return use

    def _with_gradients(self, node: CallNode, site: CallSite) -> tuple[CallNode, CallSite]:
        """Return the module and line that an op counts for; in a backward pass they are those of its forward op.

        Where gradients are enabled, they are also recorded for the backward of this op.
        """
        node, site = self._forward.of_backward() or (node, site)
        if _grad_enabled():
            self._forward.note((node, site))
        return node, site

    def _recount(self, use: Use, outputs: Any) -> Use:
        """Count a call under the use with these outputs, because the same arguments gave another shape than before."""
        if outputs == use.outputs:
            return use
        use.count -= 1
        node = use.node
        key = (*use.key[:4], outputs)
        other = node.uses.get(key) or self._new(node, key, outputs)
        other.count += 1
        return other
