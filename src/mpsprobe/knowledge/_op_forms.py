"""The names of one call: the recorded name, and those that advisories and users give it (`data/op_forms.toml`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mpsprobe import toml
from mpsprobe.run import OpUse, TensorMeta

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
    """One name of a call.

    Attributes:
        use: The call, with the name and the argument positions of that name.
        doubt: What is unknown about it, in words; empty when it is exactly the same call.
    """

    use: OpUse
    doubt: str = ""


def forms(use: OpUse) -> Iterator[Form]:
    """Yield a call as it was recorded, then under each of its other names.

    Names from the data have no overload and cover every overload.
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
    """Return every name under which a call of `base` (without overload) is compared, including `base`."""
    bare = OpUse(op=base, inputs=[])
    found = {form.use.op for form in forms(bare)}
    return frozenset(found | {"aten::_to_copy"} if base == "aten::copy_" else found)


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
    """Return a `copy_` as a `_to_copy`, which MPS implements as an allocation and a copy."""
    target, source = use.inputs
    scalars: dict[str, Any] = {"non_blocking": use.scalars.get("non_blocking", False)}
    if target.dtype != source.dtype:
        scalars["dtype"] = target.dtype
    if target.device != source.device:
        scalars["device"] = target.device
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
