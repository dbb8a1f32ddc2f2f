"""Record a reference's pass: a sketch of every output, and the outputs that determine the next step.

A sketch reduces a tensor to 64 numbers, from which the distance of two tensors can be estimated.
The tensor is cut into 64 parts, and each part is summed with random signs, the same for every tensor. Such a sum is
linear, so the difference of two sketches is the sketch of the difference, and the expected square of a sum is the
sum of squares of its part (Alon, Gibbons, Matias and Szegedy, 1999). Sketches thus depend on every element, unlike
a sample; 64 of them give the size of a difference to about 9 % (one standard deviation: sqrt(2 / 64) of its
square); and the parts distinguish a fault in one place from rounding everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from mpsprobe.layers.module_calls import Extent, Marker, ModuleCall, Subject, Watch, leaves
from mpsprobe.models.adapter import Outputs

#: The number of parts of a sketch. Smaller tensors are kept unchanged, except for the signs.
PARTS = 64
#: The number of elements summed at once in float64, which limits the memory of a sketch to some tens of MB.
_BLOCK = 1 << 20
_SEED = 20260101


@dataclass(frozen=True)
class Sketch:
    """The 64 partial sums of a tensor, and what else identifies it.

    Attributes:
        sums: The signed sum of each part in float64; values that are not finite count as 0.
        shape: The shape of the tensor.
        dtype: The dtype without `torch.`.
        rms: The root mean square of its finite values.
        nan: The number of NaN elements.
        inf: The number of infinite elements.
    """

    sums: np.ndarray[tuple[int], np.dtype[np.float64]]
    shape: tuple[int, ...]
    dtype: str
    rms: float
    nan: int
    inf: int

    @property
    def size(self) -> int:
        """Return the number of elements of the tensor that was sketched."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Distance:
    """The distance of a tensor from a reference.

    Attributes:
        error: The root mean square of the difference over that of the reference.
        worst_part: The same for the worst of 64 parts, over the reference's of an average part.
        problem: The reason why the two cannot be compared, or a NaN or infinity that the reference does not have;
            `""` for none. With a problem the numbers mean nothing.
        reshaped: Whether the problem is another shape.
    """

    error: float
    worst_part: float
    problem: str = ""
    reshaped: bool = False


def sketch(tensor: torch.Tensor) -> Sketch:
    """Make the sketch of a tensor on the CPU, because the device under test must not judge itself.

    A complex number counts as two real ones.
    """
    tensor = tensor.detach()
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    flat = tensor.cpu().resolve_neg().resolve_conj()
    flat = (torch.view_as_real(flat) if flat.is_complex() else flat).reshape(-1)
    width = max(math.ceil(flat.numel() / PARTS), 1)  # of a part; the last parts may be short or empty
    sums, square, nan, inf = [], 0.0, 0, 0
    rows = max(_BLOCK // width, 1)
    for first in range(0, PARTS, rows):
        start, count = first * width, min(rows, PARTS - first)
        block = flat[start : start + count * width].double()
        finite = block.isfinite()
        if not bool(finite.all()):
            here = int(block.isnan().sum())
            nan, inf = nan + here, inf + int((~finite).sum()) - here
            block = block.masked_fill(~finite, 0.0)
        square += float(block.square().sum())
        signed = block * _signs(start, block.numel())
        sums.append(
            torch.nn.functional.pad(signed, (0, count * width - signed.numel())).view(count, width).sum(1)
        )
    finite_count = flat.numel() - nan - inf
    return Sketch(
        sums=torch.cat(sums).numpy(),
        shape=shape,
        dtype=dtype,
        rms=math.sqrt(square / finite_count) if finite_count else 0.0,
        nan=nan,
        inf=inf,
    )


def distance(found: Sketch, expected: Sketch) -> Distance:
    """Return the distance of `found` from `expected`; it has a problem if shapes or counts of NaN or infinity differ.

    An expected tensor of zeros has the scale 1.
    """
    if found.shape != expected.shape:
        problem = f"shape {list(found.shape)} instead of {list(expected.shape)}"
        return Distance(math.nan, math.nan, problem, reshaped=True)
    for name, here, there in (("NaN", found.nan, expected.nan), ("infinite", found.inf, expected.inf)):
        if here != there:
            return Distance(
                math.nan,
                math.nan,
                f"{here:,} of {found.size:,} elements are {name}, {there:,} in the reference",
            )
    if not found.size:
        return Distance(0.0, 0.0)
    difference = np.abs(found.sums - expected.sums)
    scale = expected.rms or 1.0
    width = max(math.ceil(found.size / PARTS), 1)
    return Distance(
        error=float(np.linalg.norm(difference)) / (scale * math.sqrt(found.size)),
        worst_part=float(difference.max()) / (scale * math.sqrt(width)),
    )


_known_signs = torch.empty(0, dtype=torch.int8)


def _signs(start: int, count: int) -> torch.Tensor:
    """Return +1 and -1 for the elements from `start`: bits of PCG64, whose stream NumPy guarantees."""
    global _known_signs
    if start + count > _known_signs.numel():
        words = 1 << max(start + count, 1 << 16).bit_length() >> 6
        raw = np.random.PCG64(_SEED).random_raw(words).astype("<u8")
        bits = np.unpackbits(raw.view(np.uint8)).astype(np.int8)
        _known_signs = torch.from_numpy(1 - 2 * bits)
    return _known_signs[start : start + count]


#: The greatest size in bytes of the whole outputs of one pass; beyond it, later steps run freely, as the report says.
STEP_BYTES = 512 << 20

#: The path of the module, the number of its call, and the place of the tensor in the output.
Key = tuple[str, int, str]


@dataclass
class Expected:
    """The tensor that the reference's call received or returned at one place.

    Attributes:
        known: Its sketch, where it was made.
        whole: The tensor itself, on the CPU, where it was kept.
    """

    known: Sketch | None = None
    whole: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the reference's tensor."""
        if self.whole is not None:
            return tuple(self.whole.shape)
        return self.sketch.shape

    @cached_property
    def sketch(self) -> Sketch:
        """Return the sketch of the reference's tensor, which is made now if only the tensor is known."""
        if self.known is not None:
            return self.known
        assert self.whole is not None
        return sketch(self.whole)


class ReferencePass(Protocol):
    """A source of the tensors that a call received or returned in the reference."""

    def expected(self, call: ModuleCall) -> dict[str, Expected] | None:
        """Return the tensors by place in the arguments or the output; None when the reference has no such call."""


@dataclass
class Capture:
    """What was recorded of a pass of the reference.

    Attributes:
        sketches: The sketches of all outputs, in the order in which the calls ended.
        steps: The whole outputs of outermost calls in inference, which determine the next step.
        outputs: The named results of the pass.
        steps_left_out: The number of outermost calls whose outputs were too large in total to be kept.
    """

    sketches: dict[Key, Sketch] = field(default_factory=dict)
    steps: dict[Key, torch.Tensor] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)
    steps_left_out: int = 0

    @cached_property
    def _places(self) -> dict[tuple[str, int], list[str]]:
        places: dict[tuple[str, int], list[str]] = {}
        for path, nth, place in self.sketches:
            places.setdefault((path, nth), []).append(place)
        return places

    @property
    def calls(self) -> int:
        """Return the number of module calls with tensors in their output."""
        return len(self._places)

    @property
    def iterative(self) -> bool:
        """Return whether an outermost call was repeated (generation, flow steps) or its output was too large to keep.

        Such a run feeds on its own outputs.
        """
        return any(nth > 0 for _, nth, _ in self.steps) or self.steps_left_out > 0

    def expected(self, call: ModuleCall) -> dict[str, Expected] | None:
        """Return the output tensors of the reference's call by place; None when it made no such call."""
        places = self._places.get((call.path, call.nth))
        if places is None:
            return None
        keys: Iterator[Key] = ((call.path, call.nth, place) for place in places)
        return {key[2]: Expected(self.sketches[key], self.steps.get(key)) for key in keys}


def capture(subject: Subject, stage: Extent, marker: Marker | None = None) -> Capture:
    """Run one pass of a reference, and keep its sketches, named results and, in inference, the outputs of its steps.

    Raises:
        Exception: The target raised.
    """
    kept = Capture()
    room = STEP_BYTES

    def seen(call: ModuleCall, output: Any) -> None:
        nonlocal room
        for place, tensor in leaves(output):
            key = (call.path, call.nth, place)
            kept.sketches[key] = sketch(tensor)
            if stage is Extent.INFERENCE and call.parent is None:
                size = tensor.numel() * tensor.element_size()
                if size > room:
                    kept.steps_left_out += 1
                    continue
                room -= size
                kept.steps[key] = tensor.detach().to("cpu", copy=True)

    if marker is not None:
        marker.doing = f"{stage.value} on {subject.label}"
    with Watch(subject.model, seen, marker=marker):
        kept.outputs = subject.run(stage)
    return kept
