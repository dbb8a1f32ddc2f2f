"""Classify ops by the kind of work that determines their speed."""

from __future__ import annotations

import functools

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas.registry import OpFamily, base_name, family_of
from mpsprobe.trace.formulas.traffic import STILL, VIEWS, item_bytes, stored_elements

#: `VIEW` runs no kernel. The others are limited by memory traffic: `STREAM` in one pass, `MATH` with a function of each
#: element that takes a CPU time, `REDUCTION` over rows.
VIEW, STREAM, MATH, REDUCTION = "view", "stream", "math", "reduction"
#: The kind of an op by the family of its FLOP formula, for families with a rate of arithmetic.
KIND_OF_FAMILY = {
    OpFamily.MATMUL: "matmul",
    OpFamily.ATTENTION: "attention",
    OpFamily.CONVOLUTION: "conv",
    OpFamily.RECURRENT: "matmul",
    OpFamily.LINALG: "matmul",
    OpFamily.POINTWISE: STREAM,
    OpFamily.REDUCTION: REDUCTION,
}
#: Kinds without a rate of arithmetic.
MOVING = frozenset({VIEW, STREAM, MATH, REDUCTION})
_MATH_OPS = frozenset(
    {
        "gelu",
        "silu",
        "exp",
        "sigmoid",
        "tanh",
        "erf",
        "cos",
        "sin",
        "pow",
        "log",
        "softplus",
        "mish",
        "log1p",
        "expm1",
    }
)


#: Ops that only allocate memory, without a kernel and with little cost on the host.
_ALLOCATES = ("empty", "new_empty", "_local_scalar_dense")
_COPIES = frozenset({"copy_", "_copy_from", "clone", "_to_copy", "contiguous"})


@functools.cache
def host_kind(op: str) -> str:
    """Return the kind of an overload for its cost on the host.

    It is one of the kinds of `kind_of`, `"alloc"` for an op that only allocates memory, or `"copy"`.
    """
    name = base_name(op)
    if name.startswith(_ALLOCATES):
        return "alloc"
    return "copy" if name in _COPIES else kind_of(op)


@functools.cache
def kind_of(op: str) -> str:
    """Return the kind of an overload name: one of the above, `"matmul"`, `"attention"` or `"conv"`."""
    name = base_name(op)
    if name in VIEWS or name in STILL:
        return VIEW
    if name in _MATH_OPS:
        return MATH
    family = family_of(name)
    return KIND_OF_FAMILY[family] if family is not None else STREAM


def dtype_of(use: OpUse) -> str:
    """Return the dtype of an op's arithmetic: that of its first floating-point input, else of its first input."""
    for tensor in (*use.inputs, *use.outputs):
        if tensor.dtype.startswith(("float", "bfloat", "complex")):
            return tensor.dtype
    return use.inputs[0].dtype if use.inputs else ""


def scores_of(use: OpUse) -> int:
    """Return the bytes of the scores that one call of attention returns beside its result; 0 for other ops.

    The kernel for MPS computes them in full, `[..., queries, keys]`, and returns them
    (aten/src/ATen/native/mps/operations/Attention.mm); those for CUDA and CPUs never write them to memory.
    """
    if base_name(use.op) != "_scaled_dot_product_attention_math_for_mps" or len(use.outputs) < 2:
        return 0
    scores = use.outputs[1]
    return stored_elements(scores) * (item_bytes(scores) or 0)
