"""What a forecast is made from: a run's op uses in the order of their calls, its module calls, its memory.

Free of torch. `prediction.observed` fills it from a run on the predicting device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mpsprobe.run import OpUse, OpVerdict
from mpsprobe.trace.formulas.registry import ITEM_BYTES
from mpsprobe.trace.formulas.traffic import stored_elements

#: In `Trace.order`: the host waited for the device.
WAIT = -1
#: In `Trace.order`: a module was called (`torch.nn.Module.__call__`).
MODULE = -3


@dataclass(frozen=True)
class Pass:
    """One call of a module, with the memory around it.

    Attributes:
        path: of the module; `""` for the model itself.
        kind: its class.
        depth: 1 for a call from outside any module.
        start, end: its part of `Trace.order`.
        before, after: bytes in use when it began and ended; depth 1 only, else 0.
        peak: most bytes in use during it; depth 1 only, else 0.
        peak_before: most bytes in use since the pass before it; depth 1 only, else 0.
        cache_before, cache: bytes of the key-value cache that it was given, when it began and ended; depth 1 only.
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
        uses: distinct op uses, with their verdicts once they are judged.
        order: positions in `uses`, one a call; `WAIT` where the host waited; `MODULE` where a module was called;
            other negative numbers are calls that were not itemised.
        passes: module calls down to some depth, in order of their beginning.
        weights: bytes in use before there was any input.
        storages: of those, one by one.
        inputs: bytes of the input on the device.
        end: bytes in use at the end, results still held.
        peak: most bytes in use at once.
        peak_after: most bytes in use since the last pass.
        gradients: Bytes of the gradients of a training step, which its highest moment holds.
        states: Bytes of the optimiser's states, which are among `weights`.
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
        """Return the same run with weights that take `saved` bytes less; their heaps leave as much free."""
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
        """Return the bytes of the largest single tensor: a weight, or what an op wrote; 0 when nothing is known."""
        written = {one for use in self.uses for one in use.outputs if one.device != "cpu"}
        known = [stored_elements(one) * ITEM_BYTES[one.dtype] for one in written if one.dtype in ITEM_BYTES]
        return max([0, *self.storages, *known])

    def costs(self) -> tuple[list[int], list[int]]:
        """FLOPs and bytes of one call of each use; 0 where no formula knows them."""
        flops = [(use.flops or 0) // use.count if use.count else 0 for use in self.uses]
        moved = [(use.bytes or 0) // use.count if use.count else 0 for use in self.uses]
        return flops, moved

    def native(self, use: OpUse) -> bool:
        """Return whether a GPU kernel runs it."""
        return use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE)
