"""Choose op uses that represent all of a run's, and give each a name such as `aten.cholesky_solve-f32-1x17x1`."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mpsprobe.run import OpUse, TensorMeta

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
    """Return op uses that represent all others, in order of first use, with the calls of those that each represents.

    Op uses of one kind have the same op, dtypes, ranks, packing and pattern of other arguments. Kinds of one or two op
    uses are kept whole. Of simple ops (views, allocations, copies, pointwise ones) the smallest and the largest are
    kept, and so they are of three or more op uses that differ in one size, such as the length of a key-value cache.
    Of all others every shape is kept, because a kernel may be chosen by it.

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


def by_signature(uses: Iterable[OpUse]) -> list[OpUse]:
    """Merge op uses with equal op, tensors and scalars into one, with the module and line of the first.

    Their calls, FLOPs and bytes are added up. A model's layers repeat the same calls, and a replay needs each of them
    only once.
    """
    merged: dict[bytes, OpUse] = {}
    for use in uses:
        key = msgspec.json.encode((use.op, use.inputs, use.outputs, use.scalars))
        known = merged.get(key)
        if known is None:
            merged[key] = msgspec.structs.replace(use)
            continue
        known.count += use.count
        known.flops = None if known.flops is None or use.flops is None else known.flops + use.flops
        known.bytes = None if known.bytes is None or use.bytes is None else known.bytes + use.bytes
    return list(merged.values())


def _kind(use: OpUse) -> bytes:
    """Return a key that two calls share if they differ only in sizes."""
    if _base(use.op) in _UNREAD:
        offset = bool(use.scalars.get("storage_offset"))
        return msgspec.json.encode((use.op, [t.dtype for t in use.inputs], use.scalars.get("dtype"), offset))
    tensors = [(t.dtype, len(t.shape), t.device == "cpu", is_packed(t), 0 in t.shape) for t in use.inputs]
    return msgspec.json.encode((use.op, tensors, {k: _pattern(k, v) for k, v in use.scalars.items()}))


def _pattern(name: str, value: Any) -> Any:
    """Return an argument without what depends on sizes: a number becomes the name of its type.

    Flags, strings, dimensions, padding and groups stay.
    """
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
    """Return the first and the last of `ranked`, with the number of calls that each represents.

    The first represents its own calls, the last all others of `uses`.
    """
    first, last = ranked[0], ranked[-1]
    if first is last:
        return [(first, sum(use.count for use in uses))]
    return [(first, first.count), (last, sum(use.count for use in uses) - first.count)]


def _families(uses: list[OpUse]) -> list[dict[int, int]]:
    """Group uses whose shapes differ only in one size, as {index of the use: that size}; the largest group first."""
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
    """Return whether the op is a view, an allocation, a fill, a copy, or elementwise.

    An op that the installed torch does not have does not count as simple.
    """
    if _base(op) in _SIMPLE or _base(op) in _UNREAD:
        return True
    import torch

    from mpsprobe.trace.signature import overload

    try:
        return torch.Tag.pointwise in overload(op).tags
    except LookupError:
        return False


def _base(op: str) -> str:
    """Return the base name of an overload: `"cat"` for `"aten::cat.out"`."""
    return op.partition("::")[2].partition(".")[0]


_SHORT = {
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex64": "c64",
    "complex128": "c128",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
}
#: Arguments that state where to compute rather than what.
_PLACE = ("device", "layout", "pin_memory", "memory_format", "generator")
#: The greatest length of a list of arguments; a longer one is named by its digest.
_LONGEST = 48


def use_name(use: OpUse) -> str:
    """Return the name `OP-DTYPES-SHAPES`, followed by `-ARGUMENTS` if there are other arguments.

    Runs of equal items are written once: `24x64*16` means sixteen tensors of that shape. A tensor that is not
    packed has its strides after its shape: `5x499x768~0.768.1`. A tensor without dimensions is `0d`.

    >>> use_name(OpUse(op="aten::cat", inputs=[TensorMeta("float32", (2, 3), (3, 1))] * 2, scalars={"dim": -1}))
    'aten.cat-f32-2x3*2-dim=-1'
    """
    dtypes = "_".join(dict.fromkeys(_SHORT.get(tensor.dtype, tensor.dtype) for tensor in use.inputs))
    shapes = "_".join(_runs(map(_shape, use.inputs)))
    parts = [use.op.replace("::", "."), dtypes, shapes, _arguments(use)]
    return "-".join(part for part in parts if part)


def is_packed(tensor: TensorMeta) -> bool:
    """Return whether the tensor is contiguous, in PyTorch's sense."""
    step = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=False):
        if size == 0:
            return True
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _shape(tensor: TensorMeta) -> str:
    shape = "x".join(map(str, tensor.shape)) or "0d"
    strides = "" if is_packed(tensor) else "~" + ".".join(map(str, tensor.strides))
    return shape + strides


def _runs(items: Iterable[str]) -> list[str]:
    counted = [(item, sum(1 for _ in group)) for item, group in itertools.groupby(items)]
    return [item if count == 1 else f"{item}*{count}" for item, count in counted]


def _arguments(use: OpUse) -> str:
    """Return the arguments that are not tensors and do not state a place, as `name=value,...`, or their digest."""
    values = {
        name: value
        for name, value in use.scalars.items()
        if name not in _PLACE and value is not None and not _holds_tensors(value)
    }
    text = ",".join(f"{name}={_value(value)}" for name, value in values.items())
    # characters that pytest's ids or shells would have to escape are replaced
    text = re.sub(r"[^\w.,=+~*-]", "", text)
    if len(text) <= _LONGEST:
        return text
    return hashlib.blake2b(msgspec.json.encode(values), digest_size=4).hexdigest()


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, list) and "tensor" in value and all(item in ("tensor", None) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(map(_value, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def unique_names(uses: Sequence[OpUse]) -> list[str]:
    """Return a name for each op use (see `use_name`); names that several op uses would have end with a digest."""
    names = [use_name(use) for use in uses]
    twice = {name for name in names if names.count(name) > 1}
    return [
        f"{name}-{_digest(use)}" if name in twice else name for name, use in zip(names, uses, strict=True)
    ]


def _digest(use: OpUse) -> str:
    signature = (use.op, use.inputs, use.outputs, use.scalars)
    return hashlib.blake2b(msgspec.json.encode(signature), digest_size=4).hexdigest()
