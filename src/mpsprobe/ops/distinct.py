"""Choose op uses that represent all: one for each kind of call, first and last where a dimension grows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from mpsprobe.ops.naming import is_packed
from mpsprobe.run import OpUse
from mpsprobe.trace.summary import by_signature

#: Views and allocations, which read no element, so that neither rank nor strides matter.
_UNREAD = frozenset(
    {
        "as_strided", "view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "expand", "select",
        "slice", "squeeze", "unsqueeze", "detach", "alias", "split", "split_with_sizes", "unbind", "unfold",
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_", "lift_fresh",
    }
)  # fmt: skip
#: Ops whose work depends only on the number of elements, so that the first and the largest represent all.
#: These are fills and copies; `is_simple` recognises pointwise ops by their tag, which needs torch.
_SIMPLE = frozenset(
    {
        "zeros", "zeros_like", "ones", "full", "full_like", "fill_", "zero_", "copy_", "_to_copy", "clone",
        "arange", "_local_scalar_dense",
    }
)  # fmt: skip
#: Kinds with fewer op uses than this keep them all.
_FAMILY = 3


def representatives(uses: Iterable[OpUse]) -> list[OpUse]:
    """Return few op uses that represent all, in order of first use, each with the number of calls that it represents.

    Calls of one kind have the same op, dtypes, ranks, packing and pattern of other arguments. Of a kind whose
    shapes differ in one growing size (a key-value cache), the smallest and the largest are kept; of simple ops
    (views, allocations, pointwise ones) the first and the largest; of all others every shape, because a kernel may
    be chosen by it.

    Args:
        uses: The op uses as recorded, one for each module and line.
    """
    kinds: dict[bytes, list[OpUse]] = defaultdict(list)
    ordered = by_signature(uses)
    for use in ordered:
        kinds[_kind(use)].append(use)
    kept = [use for kind in kinds.values() for use in _of_kind(kind)]
    place = {id(use): index for index, use in enumerate(ordered)}
    kept.sort(key=lambda pair: place[id(pair[0])])
    return [msgspec.structs.replace(use, count=count) for use, count in kept]


def _kind(use: OpUse) -> bytes:
    """Return a key that is equal for calls of one kind."""
    if _base(use.op) in _UNREAD:
        offset = bool(use.scalars.get("storage_offset"))
        return msgspec.json.encode((use.op, [t.dtype for t in use.inputs], use.scalars.get("dtype"), offset))
    tensors = [(t.dtype, len(t.shape), t.device == "cpu", is_packed(t), 0 in t.shape) for t in use.inputs]
    return msgspec.json.encode((use.op, tensors, {k: _pattern(k, v) for k, v in use.scalars.items()}))


def _pattern(name: str, value: Any) -> Any:
    """Return an argument without the parts that depend on sizes: dimensions, flags and strings stay, numbers go."""
    if value is None or isinstance(value, (bool, str)) or "dim" in name or name in ("padding", "groups"):
        return value
    if isinstance(value, list):
        return [_pattern(name, item) for item in value]
    return type(value).__name__


def _of_kind(uses: list[OpUse]) -> list[tuple[OpUse, int]]:
    """Return the op uses of one kind to keep, with the number of calls that each represents."""
    if len(uses) < _FAMILY:
        return [(use, use.count) for use in uses]
    if is_simple(uses[0].op):
        return _ends(uses, sorted(uses, key=_elements))
    kept: list[tuple[OpUse, int]] = []
    waiting = dict(enumerate(uses))
    for family in _families(uses):
        members = {index: size for index, size in family.items() if index in waiting}
        if len(members) >= _FAMILY:
            grown = [waiting.pop(index) for index in sorted(members, key=lambda index: members[index])]
            kept += _ends(grown, grown)
    return [*kept, *((use, use.count) for use in waiting.values())]


def _ends(uses: list[OpUse], ranked: list[OpUse]) -> list[tuple[OpUse, int]]:
    """Return the smallest and the largest; calls between them count with the largest."""
    first, last = ranked[0], ranked[-1]
    if first is last:
        return [(first, sum(use.count for use in uses))]
    return [(first, first.count), (last, sum(use.count for use in uses) - first.count)]


def _families(uses: list[OpUse]) -> list[dict[int, int]]:
    """Group uses that are equal but for one size, as {index of the use: that size}; largest first."""
    masked: dict[tuple[Any, ...], dict[int, int]] = defaultdict(dict)
    for index, use in enumerate(uses):
        shapes = [tensor.shape for tensor in use.inputs]
        for size in {size for shape in shapes for size in shape}:
            pattern = tuple(tuple(None if s == size else s for s in shape) for shape in shapes)
            masked[pattern][index] = size
    return sorted(masked.values(), key=len, reverse=True)


def _elements(use: OpUse) -> int:
    return sum(math.prod(tensor.shape) for tensor in (*use.inputs, *use.outputs))


def is_simple(op: str) -> bool:
    """Return whether the op is a view, an allocation, a copy, or elementwise.

    An op that the installed torch does not have does not count as simple.
    """
    if _base(op) in _SIMPLE or _base(op) in _UNREAD:
        return True
    import torch

    from mpsprobe.trace.overloads import overload

    try:
        return torch.Tag.pointwise in overload(op).tags
    except LookupError:
        return False


def _base(op: str) -> str:
    """Return the base name of an overload: `"cat"` for `"aten::cat.out"`."""
    return op.partition("::")[2].partition(".")[0]
