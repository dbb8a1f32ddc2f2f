"""Identify distinct uses of an op, and convert them to the document's notation and back.

There are two steps, because the first runs for every op and the second once for each distinct use: `freeze` turns
arguments into a hashable value without tensors, `describe` turns that value into the tensors and named scalars of
an `OpUse`. `rebuild` is the inverse of both, for a replay.

The notation of arguments in an `OpUse`:

- `inputs` are the tensor arguments in schema order, with lists flattened.
- `scalars` are the other arguments by name, without those that equal the schema's default.
- An optional tensor that is absent is null in `scalars`, a list that holds tensors is a list of `"tensor"` and
  null, so that `inputs` can be assigned to arguments again.
- dtypes, devices, layouts and memory formats are strings without `torch.`; `inf`, `-inf` and `nan` are strings,
  because JSON has no such numbers; a complex number is `"1+2j"`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mpsprobe.run import OpUse, TensorMeta


class RecordingPlan:
    """How calls of an overload are recorded, which depends on its schema.

    Attributes:
        func: The overload (kept alive, so that its id stays unique), a higher-order op, or None.
        composite: Whether it consists of other ops on devices without their own kernel for it.
        varies: Whether the shape of its result depends on values, so that the result belongs to the signature.
    """

    __slots__ = ("composite", "func", "varies")

    def __init__(self, func: Any) -> None:
        self.func = func
        tags = getattr(func, "tags", ())
        self.varies = torch.Tag.dynamic_output_shape in tags or torch.Tag.data_dependent_output in tags
        self.composite = isinstance(func, torch._ops.OpOverload) and bool(
            torch._C._dispatch_has_kernel_for_dispatch_key(op_name(func), "CompositeImplicitAutograd")
        )


#: By `id(func)`, because an OpOverload's own hash is written in Python. All recorders share it.
PLANS: dict[int, RecordingPlan] = {}


def make_plan(func: Any) -> RecordingPlan:
    """Work out and store how calls of an overload are recorded."""
    plan = PLANS[id(func)] = RecordingPlan(func)
    return plan


@functools.cache
def op_name(func: Any) -> str:
    """Return the name as in PyTorch's messages (`"aten::add.Tensor"`), or `"higher_order::cond"`."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return f"higher_order::{func}"
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def overload(name: str) -> torch._ops.OpOverload:
    """Return the overload of this name in the installed PyTorch.

    Raises:
        LookupError: The installed PyTorch has no such overload.
    """
    namespace, _, rest = name.partition("::")
    base, _, variant = rest.partition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), base), variant or "default")
    except AttributeError as missing:
        raise LookupError(f"{name} is not an op of torch {torch.__version__}") from missing
    assert isinstance(found, torch._ops.OpOverload)
    return found


#: A frozen tensor: dtype, shape, strides, device. A frozen list is a tuple that does not start with a dtype.
FrozenTensor = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], torch.device]

_Tensor, _Parameter = torch.Tensor, torch.nn.Parameter  # found faster than as attributes
_PLAIN = frozenset({int, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})


def freeze(value: Any) -> Any:
    """Return an argument or result as a hashable value without tensors.

    Equal values mean equal arguments. Floats and bools carry their type, because `1 == 1.0 == True` although `x +
    1` and `x + 1.0` differ in their result type; nan, which equals nothing, becomes its name.
    """
    kind = type(value)
    if kind is _Tensor or kind is _Parameter:
        try:
            return (value.dtype, value.shape, value.stride(), value.device)
        except RuntimeError:
            return _freeze_unusual(value)
    if kind in _PLAIN:
        return value
    if kind is list or kind is tuple:
        if value and type(value[0]) is int:  # a schema has no mixed lists
            return tuple(value)
        return tuple([freeze(item) for item in value])
    if kind is float or kind is bool or kind is complex:
        return (kind, value if value == value else "nan")
    if isinstance(value, torch.Tensor):
        return _freeze_unusual(value)
    if isinstance(value, (list, tuple)):
        return tuple([freeze(item) for item in value])
    # Generators, script objects and functions cannot be rebuilt, so only their type counts.
    return (object, kind.__name__)


def _freeze_unusual(value: torch.Tensor) -> FrozenTensor:
    """Freeze a tensor that lacks strides (sparse, nested, opaque) or is of a subclass."""
    try:
        shape = value.shape
    except RuntimeError:
        shape = torch.Size()
    try:
        strides = tuple(value.stride())
    except RuntimeError:
        strides = ()
    return (value.dtype, shape, strides, value.device)


def unflatten(flat: Sequence[Any]) -> list[Any]:
    """Return the frozen arguments of `Use.key`, one item each; there a tensor takes four items.

    A shape is always a `torch.Size` there and a list of numbers a plain tuple, so a dtype argument
    (`.to(torch.float16)`) cannot be mistaken for the beginning of a tensor.
    """
    items: list[Any] = []
    index = 0
    while index < len(flat):
        if type(flat[index]) is torch.dtype and index + 1 < len(flat) and type(flat[index + 1]) is torch.Size:
            items.append(tuple(flat[index : index + 4]))
            index += 4
        else:
            items.append(flat[index])
            index += 1
    return items


def is_frozen_tensor(value: Any) -> bool:
    """Return whether a value that `freeze` made stands for a tensor."""
    return type(value) is tuple and len(value) == 4 and type(value[0]) is torch.dtype


@functools.lru_cache(maxsize=1 << 16)
def tensor_meta(frozen: FrozenTensor) -> TensorMeta:
    """Return the dtype, shape, strides and device of a frozen tensor as an `OpUse` holds them."""
    dtype, shape, strides, device = frozen
    return TensorMeta(_dtype_name(dtype), tuple(shape), tuple(strides), str(device))


def tensors(frozen: Any) -> list[TensorMeta]:
    """Return the tensors of a frozen value in order, lists flattened."""
    if is_frozen_tensor(frozen):
        return [tensor_meta(frozen)]
    if type(frozen) is tuple:
        return [meta for item in frozen for meta in tensors(item)]
    return []


def brief(frozen: Sequence[Any]) -> str:
    """Describe the tensors of frozen arguments, flat or not, in short: `"float32[2, 3] float32[3, 4]"`."""
    parts = []
    for index, value in enumerate(frozen):
        if type(value) is torch.Size:  # the second item of a tensor
            parts.append(_dtype_name(frozen[index - 1]) + str(list(value)))
        elif type(value) is tuple and value and type(value[0]) is not int:
            parts.append(brief(value))
    return " ".join(filter(None, parts))


@functools.cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(
    func: Any, frozen_args: Sequence[Any], frozen_kwargs: dict[str, Any]
) -> tuple[list[TensorMeta], dict[str, Any]]:
    """Return the tensors and named scalars of a call as an `OpUse` holds them (see the module's docstring).

    The arguments of a higher-order op, which has no schema, are called `arg0`, `arg1` and so on.
    """
    schema = getattr(func, "_schema", None)
    if schema is None:  # a higher-order op has no schema, so its arguments have no names
        named = {f"arg{index}": value for index, value in enumerate(frozen_args)} | frozen_kwargs
        inputs = tensors(tuple(named.values()))
        return inputs, {
            name: _readable(value) for name, value in named.items() if not is_frozen_tensor(value)
        }
    inputs = []
    scalars: dict[str, Any] = {}
    for index, (name, takes_tensor, default) in enumerate(_parameters(func)):
        value = frozen_args[index] if index < len(frozen_args) else frozen_kwargs.get(name, _ABSENT)
        if is_frozen_tensor(value):
            inputs.append(tensor_meta(value))
        elif takes_tensor and (value is None or value is _ABSENT):
            scalars[name] = None
        elif value is not _ABSENT and value != default:
            inputs += tensors(value)
            scalars[name] = _readable(value)
    return inputs, scalars


_ABSENT = object()


@functools.cache
def _parameters(func: Any) -> list[tuple[str, bool, Any]]:
    """Return for each argument of the schema its name, whether it holds tensors, and its frozen default."""
    return [
        (
            argument.name,
            "Tensor" in str(argument.type),
            freeze(argument.default_value) if argument.has_default_value() else _ABSENT,
        )
        for argument in func._schema.arguments
    ]


def _readable(frozen: Any) -> Any:
    """Convert a frozen scalar (or list) to a JSON value."""
    if is_frozen_tensor(frozen):
        return "tensor"
    if isinstance(frozen, tuple):
        if len(frozen) == 2 and isinstance(frozen[0], type):
            return _readable_typed(*frozen)
        return [_readable(item) for item in frozen]
    if frozen is None or isinstance(frozen, (int, str)):
        return frozen
    return str(frozen).removeprefix("torch.")


def _readable_typed(kind: type, value: Any) -> Any:
    if kind is complex:
        return str(value).strip("()")
    if kind is float and value != "nan" and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def rebuild(use: OpUse, make: Callable[[TensorMeta], Any]) -> tuple[Any, list[Any], dict[str, Any]]:
    """Return the overload and the arguments of an op use, with tensors from `make`.

    Args:
        use: An op use that has a schema (not a higher-order op).
        make: A function that returns a tensor for each of `use.inputs`, called in order.

    Returns:
        The overload, its positional arguments and its keyword arguments: `func(*args, **kwargs)` calls it.

    Raises:
        LookupError: The installed torch has no such overload, or an argument has neither a value nor a default.
        StopIteration: There are fewer inputs than tensor arguments.
    """
    func = overload(use.op)
    waiting: Iterator[Any] = map(make, use.inputs)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for argument in func._schema.arguments:
        if argument.name in use.scalars:
            value = _parse(use.scalars[argument.name], str(argument.real_type), waiting)
        elif str(argument.type) in ("Tensor", "Optional[Tensor]"):
            value = next(waiting)
        elif argument.has_default_value():
            value = argument.default_value
        else:
            raise LookupError(f"{use.op}: no value for {argument.name!r}")
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return func, args, kwargs


def _parse(value: Any, kind: str, waiting: Iterator[Any]) -> Any:
    """Convert a JSON value to the type `kind` of the schema, in TorchScript's notation."""
    if isinstance(value, list):
        return [next(waiting) if item == "tensor" else _parse(item, kind, waiting) for item in value]
    if not isinstance(value, str):
        return value
    if "ScalarType" in kind:
        return getattr(torch, value)
    if "Device" in kind:
        return torch.device(value)
    if "Layout" in kind or "MemoryFormat" in kind:
        return getattr(torch, value)
    if any(word in kind for word in ("number", "float", "Tensor")):  # `x * inf` is mul.Tensor(x, inf)
        return complex(value) if value.endswith("j") else float(value)
    if "Generator" in kind:
        return None
    return value
