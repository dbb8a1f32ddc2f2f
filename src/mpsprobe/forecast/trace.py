"""The input of a forecast: a run's op uses in the order of their calls, its module calls, and its memory.

Nothing imports torch. `prediction.observed` fills it from a run on the memoryless device.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Pass:
    """One call of a module, with the memory in use around it. Memory is 0 for calls at a depth other than 1.

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
    """A run in order.

    Attributes:
        uses: The distinct op uses, with verdicts once they are judged.
        order: The positions in `uses`, one for each call; `WAIT` where the host waited, `MODULE` where a module was
            called. Other negative numbers are calls that were not itemised.
        passes: The module calls down to some depth, in the order in which they began.
        weights: The bytes in use before there was any input.
        storages: The size of each storage among them in bytes.
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
        """Return whether a GPU kernel runs the op use."""
        return use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
