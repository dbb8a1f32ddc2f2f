"""A tensor in 64 numbers, such that two of them tell how far the tensors they stand for are apart.

The tensor is cut into 64 parts, and each part is summed with random signs, the same for every tensor. Such a
sum is linear, so the difference of two sketches is the sketch of the difference, and the square of a sum has
the sum of squares of its part as its expected value (Alon, Gibbons, Matias and Szegedy, 1999). So sketches
see every element, unlike a sample; 64 of them give the size of a difference to about 9 % (one standard
deviation: sqrt(2 / 64) of its square); and the parts tell a fault in one place from rounding everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

#: Parts of a sketch. Tensors with no more elements are kept as they are, but for the signs.
PARTS = 64
#: Elements summed at once, as float64: bounds the memory of a sketch at some tens of MB.
_BLOCK = 1 << 20
_SEED = 20260101


@dataclass(frozen=True)
class Sketch:
    """What is kept of a tensor.

    Attributes:
        sums: float64, the signed sum of each part; values that are not finite count as 0.
        shape: of the tensor.
        dtype: without `torch.`.
        rms: root mean square of its finite values.
        nan, inf: elements that are not finite.
    """

    sums: np.ndarray[tuple[int], np.dtype[np.float64]]
    shape: tuple[int, ...]
    dtype: str
    rms: float
    nan: int
    inf: int

    @property
    def size(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Distance:
    """How far a tensor is from a reference.

    Attributes:
        error: root mean square of the difference over that of the reference.
        worst_part: the same for the worst of 64 parts, over the reference's of an average part.
        problem: what keeps the two from being compared, or a NaN or infinity that the reference does not have;
            `""` for none. Then the numbers mean nothing.
        reshaped: the problem is another shape.
    """

    error: float
    worst_part: float
    problem: str = ""
    reshaped: bool = False


def sketch(tensor: torch.Tensor) -> Sketch:
    """Make the sketch of a tensor, on the CPU: the device under test must not compute what judges it."""
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
    """How far `found` is from `expected`. An expected tensor of zeros gives the scale 1."""
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
    """+1 and -1 for the elements from `start`: bits of PCG64, whose stream numpy promises never to change."""
    global _known_signs
    if start + count > _known_signs.numel():
        words = 1 << max(start + count, 1 << 16).bit_length() >> 6
        raw = np.random.PCG64(_SEED).random_raw(words).astype("<u8")
        bits = np.unpackbits(raw.view(np.uint8)).astype(np.int8)
        _known_signs = torch.from_numpy(1 - 2 * bits)
    return _known_signs[start : start + count]
