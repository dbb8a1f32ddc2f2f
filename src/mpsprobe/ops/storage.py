"""Make tensors from metadata: the recorded strides over a new storage, including overlap."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

from mpsprobe.run import TensorMeta

#: Quantised, packed and untyped dtypes, for which random elements mean nothing.
_UNFILLED = re.compile(r"q.*|bits.*|float4.*|u?int[1-7]")


class CannotRebuildError(Exception):
    """An argument cannot be made from what was recorded; the text says which and why."""


@dataclass
class Kept:
    """One tensor argument, stored so that every run gets a new tensor with the same values.

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
    """Return the number of elements in the smallest storage that holds the tensor.

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
    """Return whether two elements share memory (an expanded tensor, a sliding window)."""
    return span(meta) < math.prod(meta.shape)


def nbytes(meta: TensorMeta) -> int:
    """Return the size of the packed tensor in bytes."""
    return math.prod(meta.shape) * dtype_of(meta).itemsize
