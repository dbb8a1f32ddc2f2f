"""How a recorded tensor lies in memory, told from its shape and strides as PyTorch tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mpsprobe.run import TensorMeta


def _packed(shape: Iterable[int], strides: Iterable[int]) -> bool:
    """Whether strides are row-major without gaps, dimensions of size 1 left aside (as PyTorch does)."""
    step = 1
    for size, stride in zip(reversed(tuple(shape)), reversed(tuple(strides)), strict=True):
        if size != 1:
            if stride != step:
                return False
            step *= size
    return True


def _has_strides(tensor: TensorMeta) -> bool:
    return len(tensor.strides) == len(tensor.shape)


def is_contiguous(tensor: TensorMeta) -> bool | None:
    """Row-major and packed; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    return 0 in tensor.shape or _packed(tensor.shape, tensor.strides)


def is_transposed(tensor: TensorMeta) -> bool | None:
    """The last two dimensions are swapped in memory; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) < 2 or min(tensor.shape[-2:]) < 2:
        return False
    return tensor.strides[-2] == 1 and tensor.strides[-1] > 1


def is_expanded(tensor: TensorMeta) -> bool | None:
    """One element stands for several along a dimension; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def is_channels_last(tensor: TensorMeta) -> bool | None:
    """Packed with channels fastest and not row-major too; None when the strides are not known."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) not in (4, 5) or is_contiguous(tensor):
        return False
    order = [0, *range(2, len(tensor.shape)), 1]
    return _packed((tensor.shape[i] for i in order), (tensor.strides[i] for i in order))


#: Field of a condition -> how the layout is told.
LAYOUTS: dict[str, Callable[[TensorMeta], bool | None]] = {
    "contiguous": is_contiguous,
    "transposed": is_transposed,
    "expanded": is_expanded,
    "channels_last": is_channels_last,
}
