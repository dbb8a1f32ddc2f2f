"""Reduce a tensor to 64 numbers, from which the distance of two tensors can be estimated.

The tensor is cut into 64 parts, and each part is summed with random signs, the same for every tensor. Such a sum is
linear, so the difference of two sketches is the sketch of the difference, and the expected square of a sum is the
sum of squares of its part (Alon, Gibbons, Matias and Szegedy, 1999). Sketches thus depend on every element, unlike
a sample; 64 of them give the size of a difference to about 9 % (one standard deviation: sqrt(2 / 64) of its
square); and the parts distinguish a fault in one place from rounding everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

#: The number of parts of a sketch. Smaller tensors are kept unchanged, except for the signs.
PARTS = 64
#: The number of elements summed at once in float64, which limits the memory of a sketch to some tens of MB.
_BLOCK = 1 << 20
_SEED = 20260101


@dataclass(frozen=True)
class Sketch:
    """The sketch of a tensor.

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
        """Return the number of elements of the tensor."""
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
    """Make the sketch of a tensor on the CPU, because the device under test must not judge itself."""
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
    """Return the distance of `found` from `expected`. An expected tensor of zeros has the scale 1."""
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
