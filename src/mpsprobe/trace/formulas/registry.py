"""The registry of FLOP formulas: one function and one family for each op, found by the op's base name."""

from __future__ import annotations

import enum
from collections.abc import Callable
from math import prod

from mpsprobe.run import OpUse, TensorMeta

#: A function that returns the FLOPs of one call; None when an op use does not hold enough to count them.
Formula = Callable[[OpUse], "int | None"]

FORMULAS: dict[str, Formula] = {}


class OpFamily(enum.Enum):
    """The kind of work of ops with a formula. Forecasts have a rate for each member, and reports a name."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    CONVOLUTION = "convolution"
    RECURRENT = "recurrent"
    LINALG = "linalg"  #: decompositions and transforms
    POINTWISE = "pointwise"
    REDUCTION = "reduction"  #: norms, softmax, sums, pooling


_FAMILIES: dict[str, OpFamily] = {}

#: The bytes of an element, by dtype.
ITEM_BYTES = {
    **dict.fromkeys(("complex128",), 16),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    **dict.fromkeys(("float32", "int32", "uint32", "complex32", "qint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("int8", "uint8", "bool", "qint8", "quint8"), 1),
    **dict.fromkeys(
        ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"), 1
    ),
    "float4_e2m1fn_x2": 1,
}


def formula(family: OpFamily, *names: str) -> Callable[[Formula], Formula]:
    """Return a decorator that registers the FLOPs of one call of each named op.

    Args:
        family: The kind of work of the ops.
        names: Base names as `base_name` returns them.

    Raises:
        ValueError: A name is already registered.
    """

    def register(function: Formula) -> Formula:
        for name in names:
            if name in FORMULAS:
                raise ValueError(f"{name} has a formula already")
            FORMULAS[name] = function
            _FAMILIES[name] = family
        return function

    return register


def family_of(name: str) -> OpFamily | None:
    """Return the family of an op by its base name; None where no formula is registered."""
    return _FAMILIES.get(name)


def base_name(op: str) -> str:
    """Return an op's name without `aten::`, without its overload, and without the suffix of an in-place variant.

    `aten::add_.Tensor` gives `add`; other namespaces are kept: `torchvision::nms`.
    """
    name = op.split(".")[0].removeprefix("aten::")
    if name.startswith("__") and name.endswith("__"):  # __iand__ and others are named after Python's operator
        return name
    return name.removesuffix("_")


def overload_name(op: str) -> str:
    """Return the overload in an op's name: `out` for `aten::add.out`; empty for the default overload."""
    return op.partition(".")[2]


def numel(tensor: TensorMeta) -> int:
    """Return the number of elements, which is the product of the shape."""
    return prod(tensor.shape)


def is_floating(tensor: TensorMeta) -> bool:
    """Return whether the elements of a recorded tensor are floating-point or complex numbers."""
    return tensor.dtype.startswith(("float", "bfloat", "complex"))


def is_complex(tensor: TensorMeta) -> bool:
    """Return whether the elements of a recorded tensor are complex numbers."""
    return tensor.dtype.startswith("complex")


#: The name of each family of FLOP formulas in a report.
FAMILY_NAMES = {
    OpFamily.ATTENTION: "attention",
    OpFamily.CONVOLUTION: "convolutions",
    OpFamily.LINALG: "decompositions",
    OpFamily.MATMUL: "matrix products",
    OpFamily.POINTWISE: "elementwise",
    OpFamily.RECURRENT: "recurrent layers",
    OpFamily.REDUCTION: "norms, softmax and reductions",
}
_OTHERS = "copies and others"


def family(op: str) -> str:
    """Return the family of an op as reports name it: `matrix products` for `aten::addmm`.

    Ops without a formula are `copies and others`.
    """
    found = family_of(base_name(op))
    return FAMILY_NAMES[found] if found is not None else _OTHERS
