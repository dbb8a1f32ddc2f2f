"""Properties of recorded tensors: the size of an element, the memory layout, and the notation in examples.

Layouts are derived from shape and strides as in PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mpsprobe.errors import DataError
from mpsprobe.run import TensorMeta

#: The bytes of one element, by dtype name without the `torch.` prefix.
ITEM_SIZE = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}


def _packed(shape: Iterable[int], strides: Iterable[int]) -> bool:
    """Return whether strides are row-major without gaps; dimensions of size 1 are ignored, as in PyTorch."""
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
    """Return whether a tensor is row-major and packed; None when its strides are unknown."""
    if not _has_strides(tensor):
        return None
    return 0 in tensor.shape or _packed(tensor.shape, tensor.strides)


def is_transposed(tensor: TensorMeta) -> bool | None:
    """Return whether the last two dimensions are swapped in memory; None when the strides are unknown."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) < 2 or min(tensor.shape[-2:]) < 2:
        return False
    return tensor.strides[-2] == 1 and tensor.strides[-1] > 1


def is_expanded(tensor: TensorMeta) -> bool | None:
    """Return whether a dimension larger than 1 has stride 0; None when the strides are unknown."""
    if not _has_strides(tensor):
        return None
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.strides, strict=True))


def is_channels_last(tensor: TensorMeta) -> bool | None:
    """Return whether a packed tensor is in channels-last order only; None when the strides are unknown."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) not in (4, 5) or is_contiguous(tensor):
        return False
    order = [0, *range(2, len(tensor.shape)), 1]
    return _packed((tensor.shape[i] for i in order), (tensor.strides[i] for i in order))


#: The test of each layout, by the field of a condition.
LAYOUTS: dict[str, Callable[[TensorMeta], bool | None]] = {
    "contiguous": is_contiguous,
    "transposed": is_transposed,
    "expanded": is_expanded,
    "channels_last": is_channels_last,
}


_TENSOR = re.compile(r"(?P<dtype>\w+)\[(?P<shape>[\d,]*)\](@\[(?P<strides>[\d,]*)\])?( on (?P<device>\w+))?")


def tensor(text: str) -> TensorMeta:
    """Parse a tensor from `"float16[2,8]"`, `"float16[2,8]@[1,2]"` (strides; else packed) or `"float32[] on cpu"`.

    Raises:
        DataError: The text has another notation.
    """
    parts = _TENSOR.fullmatch(text)
    if parts is None:
        raise DataError(f"{text!r} is no tensor.", 'Write "float16[2,8]" or "float16[2,8]@[1,2]".')
    shape = _numbers(parts["shape"])
    strides = _numbers(parts["strides"]) if parts["strides"] is not None else _row_major(shape)
    if len(strides) != len(shape):
        raise DataError(f"{text!r} has {len(shape)} dimensions and {len(strides)} strides.")
    return TensorMeta(parts["dtype"], shape, strides, parts["device"] or "mps")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
