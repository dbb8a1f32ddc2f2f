"""Make tensors from metadata over a new storage, including overlap, and draw plain values, ranges and matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mpsprobe.run import OpUse, TensorMeta

#: Quantised, packed and untyped dtypes, for which random elements mean nothing.
_UNFILLED = re.compile(r"q.*|bits.*|float4.*|u?int[1-7]")


class CannotRebuildError(Exception):
    """An argument cannot be made from what was recorded; the text says which and why."""


@dataclass
class ReplayTensor:
    """One tensor argument whose values are stored, so that every run gets a new tensor with the same values.

    Attributes:
        meta: The recorded metadata.
        flat: The elements of the storage, on the CPU.
        stays: Whether it is a CPU tensor in a call with tensors of the device, and stays on the CPU in every run.
        offset: The offset of the tensor in the storage, in elements.
    """

    meta: TensorMeta
    flat: torch.Tensor
    stays: bool = False
    offset: int = 0

    @property
    def view(self) -> torch.Tensor:
        """Return the tensor as a view of the stored elements."""
        return self.flat.as_strided(self.meta.shape, self.meta.strides, self.offset)

    def fresh(self, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a new tensor with the recorded shape and strides.

        Args:
            device: The device of the tensor, unless it stays on the CPU.
            dtype: Another dtype for floating-point and complex values; None to keep the dtype.
        """
        flat = self.flat
        if dtype is not None and flat.is_complex():
            flat = flat.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
        elif dtype is not None and flat.is_floating_point():
            flat = flat.to(dtype)
        moved = flat.clone() if self.stays else flat.clone().to(device)
        # not as_strided, whose result would count as a view, which `detach_` refuses
        fresh = torch.empty(0, dtype=moved.dtype, device=moved.device)
        return fresh.set_(moved.untyped_storage(), self.offset, self.meta.shape, self.meta.strides)


def dtype_of(meta: TensorMeta) -> torch.dtype:
    """Return the torch dtype of a recorded tensor.

    Raises:
        CannotRebuildError: The installed torch has no dtype of that name, or it cannot be filled with values.
    """
    dtype = getattr(torch, meta.dtype, None)
    if not isinstance(dtype, torch.dtype) or _UNFILLED.fullmatch(meta.dtype):
        raise CannotRebuildError(f"no values can be made for dtype {meta.dtype}")
    return dtype


def span(meta: TensorMeta, shape: tuple[int, ...] | None = None) -> int:
    """Return the number of elements in the smallest storage that holds the tensor, or one of `shape` and its strides.

    Raises:
        CannotRebuildError: The tensor has no strides (sparse or nested), or negative ones.
    """
    shape = meta.shape if shape is None else shape
    if len(meta.strides) != len(shape):
        raise CannotRebuildError("a sparse or nested tensor has no strides to rebuild it from")
    if any(stride < 0 for stride in meta.strides):
        raise CannotRebuildError("negative strides")
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, meta.strides, strict=True))


def overlaps(meta: TensorMeta) -> bool:
    """Return whether the tensor has more elements than its memory, such as an expanded tensor or a sliding window."""
    return span(meta) < math.prod(meta.shape)


def nbytes(meta: TensorMeta) -> int:
    """Return the size in bytes of the tensor's elements, as if they were contiguous."""
    return math.prod(meta.shape) * dtype_of(meta).itemsize


def base_name(op: str) -> str:
    """Return the base name of an overload: `"cat"` for `"aten::cat.out"`."""
    return op.partition("::")[2].partition(".")[0]


def stem(op: str) -> str:
    """Return the base name without underscores: `"softmax"` for `"_softmax"`, `"sqrt"` for `"sqrt_"`."""
    return base_name(op).strip("_")


@dataclass(frozen=True)
class Argument:
    """A tensor argument that needs values, with the rest of its call.

    Attributes:
        use: The op use.
        name: The name of the argument in the schema.
        index: The position among the tensors.
        position: The position among those of the same name, for a list of tensors.
        kept: The tensor.
        others: All tensors of the use by name (the first one where the name belongs to a list).
        generator: The source of randomness.
    """

    use: OpUse
    name: str
    index: int
    position: int
    kept: ReplayTensor
    others: dict[str, ReplayTensor]
    generator: torch.Generator

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape that was recorded for the argument."""
        return self.kept.meta.shape

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype in which values are drawn for the argument."""
        return self.kept.flat.dtype

    def scalar(self, name: str, default: Any) -> Any:
        """Return the value of another argument of the call, or `default` when the call leaves it out."""
        value = self.use.scalars.get(name, default)
        return default if value is None else value


Draw = Callable[[Argument], "torch.Tensor | None"]


def plain(argument: Argument, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw values by the argument's dtype: normal floats or complex numbers, integers from 1 to 8, or booleans.

    No integer is 0, so that nothing is divided by zero.
    """
    dtype, generator = argument.dtype, argument.generator
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if dtype.is_complex:
        return torch.complex(*(torch.randn(shape, generator=generator) for _ in range(2))).to(dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(1, 9, shape, generator=generator).to(dtype)


def uniform(low: float, high: float) -> Draw:
    """Return a function that draws floats between `low` and `high`, and returns None for another dtype."""

    def draw(argument: Argument) -> torch.Tensor | None:
        if not argument.dtype.is_floating_point:
            return None
        span = torch.rand((argument.kept.flat.numel(),), generator=argument.generator)
        return low + (high - low) * span

    return draw


def away_from_zero(argument: Argument) -> torch.Tensor | None:
    """Draw floats with magnitudes from 0.5 to 2 and either sign, for divisors; None for another dtype."""
    if not argument.dtype.is_floating_point:
        return None
    size = (argument.kept.flat.numel(),)
    magnitude = 0.5 + 1.5 * torch.rand(size, generator=argument.generator)
    return torch.where(torch.rand(size, generator=argument.generator) < 0.5, -magnitude, magnitude)


def distinct(argument: Argument) -> torch.Tensor | None:
    """Draw values without ties where the dtype has enough of them, because the order of equal elements is undefined.

    Float16 and bfloat16 give 14,000 different values. None for booleans.
    """
    count, dtype = argument.kept.flat.numel(), argument.dtype
    order = torch.randperm(count, generator=argument.generator)
    if dtype in (torch.float16, torch.bfloat16):
        # Adjacent bit patterns are adjacent numbers: 16 bits hold some 14,000 of moderate size.
        first = torch.tensor(2.0**-8 if dtype is torch.float16 else 2.0**-40, dtype=dtype).view(torch.int16)
        limit = 14_000
        return ((order % limit).to(torch.int16) + first).view(dtype)
    if dtype.is_floating_point:
        return (order.double() - count / 2) / max(count / 8, 1)
    if dtype is torch.bool:
        return None
    return order % min(torch.iinfo(dtype).max, 1 << 31)


def scaled(argument: Argument) -> torch.Tensor | None:
    """Draw the second factor of a product, so small that results are about 1 and a missing bias would show.

    None for another dtype than floating point, and for fewer than two dimensions.
    """
    if not argument.dtype.is_floating_point or len(argument.shape) < 2:
        return None
    summed: int = SUMMED[stem(argument.use.op), argument.name](argument.shape)
    size = (argument.kept.flat.numel(),)
    return torch.randn(size, generator=argument.generator) / math.sqrt(max(summed, 1))


_Shape = tuple[int, ...]


def _all_but_first(shape: _Shape) -> int:
    return math.prod(shape[1:])


#: The number of products that a result adds up, by (op, argument), from that argument's shape.
SUMMED: dict[tuple[str, str], Callable[[_Shape], int]] = {
    ("linear", "weight"): lambda shape: shape[-1],
    ("mm", "mat2"): lambda shape: shape[-2],
    ("bmm", "mat2"): lambda shape: shape[-2],
    ("matmul", "other"): lambda shape: shape[-2],
    ("addmm", "mat2"): lambda shape: shape[-2],
    ("addmv", "mat"): lambda shape: shape[-1],
    ("mv", "self"): lambda shape: shape[-1],
    ("baddbmm", "batch2"): lambda shape: shape[-2],
    ("addbmm", "batch2"): lambda shape: shape[-2],
    **{
        (op, "weight"): _all_but_first
        for op in ("convolution", "mps_convolution", "conv1d", "conv2d", "conv3d", "thnn_conv2d", "slow_conv2d_forward")
    },
    **{(op, "weight"): _all_but_first for op in ("mps_convolution_transpose", "conv_transpose2d")},
}  # fmt: skip


def ascending(argument: Argument) -> torch.Tensor | None:
    """Draw values that ascend along the last dimension, as a sorted sequence must."""
    return plain(argument, argument.shape).sort(-1).values


def _square(argument: Argument) -> torch.Tensor | None:
    """Draw normal values in float64; None for fewer than two dimensions, or a dtype other than floating point."""
    shape = argument.shape
    if len(shape) < 2 or not argument.dtype.is_floating_point:
        return None
    return torch.randn(shape, generator=argument.generator, dtype=torch.float64)


def positive_definite(argument: Argument) -> torch.Tensor | None:
    """Draw matrices A A^T / n + I, whose eigenvalues are between 1 and about 5."""
    noise = _square(argument)
    if noise is None:
        return None
    size = noise.shape[-1]
    return noise @ noise.mT / size + torch.eye(size, dtype=torch.float64)


def cholesky_factor(argument: Argument) -> torch.Tensor | None:
    """Draw the Cholesky factor of a positive definite matrix: upper if the op's `upper` is true, else lower."""
    matrix = positive_definite(argument)
    if matrix is None:
        return None
    factor: torch.Tensor = torch.linalg.cholesky(matrix)
    return factor.mT if argument.scalar("upper", False) else factor


def well_conditioned(argument: Argument) -> torch.Tensor | None:
    """Draw a square matrix of noise plus 2 on the diagonal: far from singular, so that rounding stays small.

    None for a shape or dtype that has no such matrix.
    """
    noise = _square(argument)
    if noise is None or noise.shape[-1] != noise.shape[-2]:
        return None
    size = noise.shape[-1]
    return noise / math.sqrt(size) / 2 + 2 * torch.eye(size, dtype=torch.float64)


def triangular(argument: Argument) -> torch.Tensor | None:
    """Draw the upper part of a well-conditioned matrix, or the lower one if the op's `upper` is false."""
    matrix = well_conditioned(argument)
    if matrix is None:
        return None
    return matrix.triu() if argument.scalar("upper", argument.use.op != "aten::lu_solve") else matrix.tril()


def symmetric(argument: Argument) -> torch.Tensor | None:
    """Draw symmetric matrices of normal values."""
    noise = _square(argument)
    return None if noise is None else (noise + noise.mT) / 2
