"""The calls that advisories match: their names (`data/op_forms.toml`), and sizes and layouts of their tensors.

Layouts are derived from shape and strides as in PyTorch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.run import OpUse, TensorMeta

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
    """Return whether a tensor is row-major and packed, or has no elements; None when its strides are unknown."""
    if not _has_strides(tensor):
        return None
    return 0 in tensor.shape or _packed(tensor.shape, tensor.strides)


def is_transposed(tensor: TensorMeta) -> bool | None:
    """Return whether the last two dimensions, both larger than 1, have strides of 1 and more; None without strides."""
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
    """Return whether a tensor of rank 4 or 5 is channels-last, packed and not contiguous; None without strides."""
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) not in (4, 5) or is_contiguous(tensor):
        return False
    order = [0, *range(2, len(tensor.shape)), 1]
    return _packed((tensor.shape[i] for i in order), (tensor.strides[i] for i in order))


def is_heads_inside(tensor: TensorMeta) -> bool | None:
    """Return whether a tensor of rank 4 is packed with its dimensions 1 and 2 swapped, and not contiguous as well.

    Attention over (batch, heads, length, width) gets such views of a packed (batch, length, heads, width). None
    when the strides are unknown.
    """
    if not _has_strides(tensor):
        return None
    if len(tensor.shape) != 4 or is_contiguous(tensor):
        return False
    order = (0, 2, 1, 3)
    return _packed((tensor.shape[i] for i in order), (tensor.strides[i] for i in order))


#: The test of each layout, by the field of a condition.
LAYOUTS: dict[str, Callable[[TensorMeta], bool | None]] = {
    "contiguous": is_contiguous,
    "transposed": is_transposed,
    "expanded": is_expanded,
    "channels_last": is_channels_last,
    "heads_inside": is_heads_inside,
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


#: Ops whose name without the underscore belongs to a function with other arguments.
_OTHER_FUNCTION = frozenset({"aten::normal_"})

#: The reason why a match of an in-place op with an advisory about the function is not certain.
IN_PLACE = "whether the in-place form has it too"


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the data file, whose head describes the keys."""

    recorded: list[str]
    named: list[str]
    both_ways: bool = False
    inputs: list[int] | None = None
    exact: bool = False
    scalars: dict[str, bool | int | float | str] = {}
    height: Literal["dropped", "added"] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    form: list[_Form]


class Form(msgspec.Struct, frozen=True):
    """A recorded call under one of the names by which advisories may know it.

    Attributes:
        use: The call, with the op name, the argument positions and the scalars that belong to that name.
        doubt: What is not certain about the renaming, in words; empty when the advisory about that name concerns
            this call.
    """

    use: OpUse
    doubt: str = ""


def forms(use: OpUse) -> Iterator[Form]:
    """Yield a call as it was recorded, then under each of its other names.

    Names from `data/op_forms.toml` have no overload and cover every overload. An in-place op is also yielded as its
    function, with a doubt.
    """
    yield Form(use)
    base = use.op.partition(".")[0]
    if base == "aten::copy_" and len(use.inputs) == 2:
        yield Form(_as_new_tensor(use))
    own = [base]
    if base.endswith("_") and not base.endswith("__") and base not in _OTHER_FUNCTION:
        function = base.removesuffix("_")
        yield Form(_renamed(use, function), IN_PLACE)
        own.append(function)
    for name in own:
        doubt = IN_PLACE if name != base else ""
        for form in _by_recorded().get(name, ()):
            for one in _variants(form, use):
                for other in form.named:
                    if other != base:
                        yield Form(_renamed(one, other), doubt)


@functools.cache
def names(base: str) -> frozenset[str]:
    """Return every name under which a call of `base` (without overload) is looked up, including `base`."""
    bare = OpUse(op=base, inputs=[])
    found = {form.use.op for form in forms(bare)}
    return frozenset(found | {"aten::_to_copy"} if base == "aten::copy_" else found)


@functools.cache
def recorded_as(base: str) -> frozenset[str]:
    """Return the names under which a call that people write as `base` is recorded: `F.pad` as `constant_pad_nd`."""
    return frozenset(
        name for name, forms_ in _by_recorded().items() if any(base in form.named for form in forms_)
    )


@functools.cache
def _by_recorded() -> dict[str, list[_Form]]:
    index: dict[str, list[_Form]] = {}
    for form in toml.load(Path(__file__).parent / "data" / "op_forms.toml", _File).form:
        for name in form.recorded:
            index.setdefault(name, []).append(form)
        if form.both_ways:
            back = msgspec.structs.replace(form, named=[*form.recorded, *form.named])
            for name in form.named:
                index.setdefault(name, []).append(back)
    return index


def _as_new_tensor(use: OpUse) -> OpUse:
    """Return a call of `copy_` as the call of `_to_copy` that would make a tensor like its target."""
    target, source = use.inputs
    # None, and not left out: a copy is known not to cast, where a call whose argument was not recorded may.
    scalars: dict[str, Any] = {
        "non_blocking": use.scalars.get("non_blocking", False),
        "dtype": target.dtype if target.dtype != source.dtype else None,
        "device": target.device if target.device != source.device else None,
    }
    return msgspec.structs.replace(
        use, op="aten::_to_copy", inputs=[source], outputs=[target], scalars=scalars
    )


def _variants(form: _Form, use: OpUse) -> Iterator[OpUse]:
    order = form.inputs or []
    inputs = use.inputs
    if order and max(order) < len(inputs):
        rest = [] if form.exact else [tensor for place, tensor in enumerate(inputs) if place not in order]
        inputs = [inputs[place] for place in order] + rest
    same = msgspec.structs.replace(use, inputs=inputs, scalars=use.scalars | form.scalars)
    yield same
    if form.height == "dropped":
        yield from _without_height(same)
    elif form.height == "added":
        yield from _with_height(same)


def _without_height(use: OpUse) -> Iterator[OpUse]:
    images = [tensor for tensor in use.inputs if len(tensor.shape) == 4]
    if images and all(tensor.shape[2] == 1 for tensor in images) and _first(use, "padding") in (0, None):
        inputs = [_drop(tensor) if len(tensor.shape) == 4 else tensor for tensor in use.inputs]
        scalars = {name: _shorter(name, value) for name, value in use.scalars.items()}
        yield msgspec.structs.replace(use, inputs=inputs, scalars=scalars)


def _with_height(use: OpUse) -> Iterator[OpUse]:
    if any(len(tensor.shape) == 3 for tensor in use.inputs):
        inputs = [_add(tensor) if len(tensor.shape) == 3 else tensor for tensor in use.inputs]
        scalars = {name: _longer(name, value) for name, value in use.scalars.items()}
        yield msgspec.structs.replace(use, inputs=inputs, scalars=scalars)


def _drop(tensor: TensorMeta) -> TensorMeta:
    shape, strides = tensor.shape, tensor.strides
    return msgspec.structs.replace(tensor, shape=shape[:2] + shape[3:], strides=strides[:2] + strides[3:])


def _add(tensor: TensorMeta) -> TensorMeta:
    shape, strides = tensor.shape, tensor.strides
    between = (shape[2] * strides[2],) if len(strides) == 3 else ()
    return msgspec.structs.replace(
        tensor, shape=(*shape[:2], 1, shape[2]), strides=(*strides[:2], *between, *strides[2:])
    )


_GEOMETRY = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}


def _first(use: OpUse, name: str) -> Any:
    value = use.scalars.get(name)
    return value[0] if isinstance(value, list) and value else None


def _shorter(name: str, value: Any) -> Any:
    return value[1:] if name in _GEOMETRY and isinstance(value, list) and len(value) == 2 else value


def _longer(name: str, value: Any) -> Any:
    if name in _GEOMETRY and isinstance(value, Sequence) and len(value) == 1:
        return [_GEOMETRY[name], *value]
    return value


def _renamed(use: OpUse, name: str) -> OpUse:
    return msgspec.structs.replace(use, op=name)
