"""Classify ops by the kind of work that determines their speed."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas.contractions import multiply_adds
from mpsprobe.trace.formulas.registry import OpFamily, base_name, family_of
from mpsprobe.trace.formulas.traffic import STILL, VIEWS, item_bytes, stored_elements

#: `VIEW` runs no kernel. The others are limited by memory traffic: `STREAM` in one pass, `MATH` with a function of each
#: element that takes a CPU time, `REDUCTION` over rows, `GROUP_NORM` over a few large groups.
VIEW, STREAM, MATH, REDUCTION, GROUP_NORM = "view", "stream", "math", "reduction", "group_norm"
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
MOVING = frozenset({VIEW, STREAM, MATH, REDUCTION, GROUP_NORM})
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


_GROUP_NORMS = frozenset({"native_group_norm", "group_norm"})
#: Ops that only allocate memory, without a kernel and with little cost on the host.
_ALLOCATES = ("empty", "new_empty", "_local_scalar_dense")
_COPIES = frozenset({"copy_", "_copy_from", "clone", "_to_copy", "contiguous"})


@functools.cache
def host_kind(op: str) -> str:
    """Return the kind of an overload for its cost on the host.

    It is one of the kinds of `kind_of`, where a group norm counts as a reduction, or `"alloc"` for an op that only
    allocates memory, or `"copy"`.
    """
    name = base_name(op)
    if name.startswith(_ALLOCATES):
        return "alloc"
    if name in _GROUP_NORMS:
        return REDUCTION
    return "copy" if name in _COPIES else kind_of(op)


@functools.cache
def kind_of(op: str) -> str:
    """Return the kind of an overload: one of `MOVING`, or `"matmul"`, `"attention"` or `"conv"`."""
    name = base_name(op)
    if name in VIEWS or name in STILL:
        return VIEW
    if name in _MATH_OPS:
        return MATH
    if name in _GROUP_NORMS:
        return GROUP_NORM
    family = family_of(name)
    return KIND_OF_FAMILY[family] if family is not None else STREAM


def dtype_of(use: OpUse) -> str:
    """Return the dtype of an op's arithmetic: the first float or complex one, else that of the first input."""
    for tensor in (*use.inputs, *use.outputs):
        if tensor.dtype.startswith(("float", "bfloat", "complex")):
            return tensor.dtype
    return use.inputs[0].dtype if use.inputs else ""


def scores_of(use: OpUse) -> int:
    """Return the bytes of the scores that one call of attention returns in addition to its result; 0 for other ops.

    The kernel for MPS computes them in full, `[..., queries, keys]`, and returns them
    (aten/src/ATen/native/mps/operations/Attention.mm); those for CUDA and CPUs never write them to memory.
    """
    if base_name(use.op) != "_scaled_dot_product_attention_math_for_mps" or len(use.outputs) < 2:
        return 0
    scores = use.outputs[1]
    return stored_elements(scores) * (item_bytes(scores) or 0)


#: Reductions whose Metal kernel of torch 2.13 gives each result a threadgroup of its own (aten/src/ATen/native/mps/
#: kernels/ReduceOps.metal), unless they are over the first or the last dimension or over all.
_GROUP_EACH = frozenset({"amax", "amin", "aminmax", "max", "min", "any", "all", "prod", "argmax", "argmin"})
#: Rows and columns of the results that a threadgroup of a matmul computes.
_TILE = 64
#: Sums longer than this are split among threadgroups.
_SUM = 4096


def threadgroups_of(use: OpUse) -> int:
    """Return the number of threadgroups of a reduction whose kernel starts one for each result; 0 for other ops.

    Reductions over the first or the last dimension, or over all, have kernels of their own.
    """
    name = base_name(use.op)
    if name not in _GROUP_EACH or not use.inputs or not use.outputs:
        return 0
    results, rank = stored_elements(use.outputs[0]), len(use.inputs[0].shape)
    told = use.scalars.get("dim")
    over = (
        {dim % rank for dim in (told if isinstance(told, list) else [told]) if isinstance(dim, int)}
        if rank
        else set()
    )
    if not over or over == {0} or over == {rank - 1}:
        return 0
    return results if results < stored_elements(use.inputs[0]) else 0


class NormShape(NamedTuple):
    """The shape of a vector norm: how many results it has, and how many elements each of them sums.

    Attributes:
        results: The number of results; 0 for other ops.
        length: The number of elements that go into each result.
        rows: Whether the results are the norms of the rows of a contiguous tensor.
    """

    results: int = 0
    length: int = 0
    rows: bool = False


def norm_of(use: OpUse) -> NormShape:
    """Return the shape of a vector norm, such as that of a gradient before clipping; no results for other ops."""
    if base_name(use.op) not in ("linalg_vector_norm", "norm") or not use.inputs or not use.outputs:
        return NormShape()
    (tensor, *_), results = use.inputs, max(1, stored_elements(use.outputs[0]))
    length = math.prod(tensor.shape) // results
    dense = tuple(math.prod(tensor.shape[k + 1 :]) for k in range(len(tensor.shape)))
    rows = results > 1 and tensor.shape[-1] == length and tensor.strides == dense
    return NormShape(results, length, rows)


class ConvShape(NamedTuple):
    """What MPS computes of gradients of convolutions; a transposed convolution is a gradient of data too.

    Attributes:
        plain: The FLOPs of a forward convolution, which the data gradient of a transposed one is; 0 for other ops.
        data: The FLOPs of a data gradient, with those on the zeros that strides put between incoming values.
        weight: The FLOPs of a weight gradient.
    """

    plain: int = 0
    data: int = 0
    weight: int = 0


def convolution_of(use: OpUse) -> ConvShape:
    """Return what MPS computes for the gradients of a convolution, or for a transposed one; nothing for others.

    `_mps_convolution_transpose` calls the function of data gradients
    (aten/src/ATen/native/mps/operations/Convolution.mm).
    """
    name = base_name(use.op)
    if kind_of(use.op) != "conv" or len(use.inputs) < 2:
        return ConvShape()
    transposed = bool(use.scalars.get("transposed")) or "transpose" in name
    backward = "backward" in name
    if not (backward or transposed):
        return ConvShape()
    if backward:
        x, weight = use.inputs[0 if name.startswith("mps") else 1], use.inputs[2]
        result = use.inputs[1 if name.startswith("mps") else 0]
        wanted = [bool(flag) for flag in use.scalars.get("output_mask", (True, True))][:2]
    else:
        (x, weight), result, wanted = use.inputs[:2], use.outputs[0], [True, False]
    flops = multiply_adds(x, weight, result, transposed)
    stride = list(use.scalars.get("stride") or [1])
    zeros = math.prod(stride) if len(stride) > 1 else stride[0] ** (len(weight.shape) - 2)
    forward = backward and transposed
    return ConvShape(
        plain=flops * (wanted[0] and forward),
        data=flops * zeros * (wanted[0] and not forward),
        weight=flops * wanted[1],
    )


def gathered_of(use: OpUse) -> int:
    """Return the number of elements that a gather fetches one at a time; 0 for other ops.

    Other passes over memory read neighbours together. An expanded index is written out before the gather
    (aten/src/ATen/native/mps/operations/ScatterGather.mm).
    """
    if base_name(use.op) != "gather" or not use.outputs:
        return 0
    return stored_elements(use.outputs[0])


def tiles_of(use: OpUse, flops: int) -> int:
    """Return the number of pieces into which a matmul is divided among the cores of a GPU; 0 for other ops.

    A piece is a block of results; where there are few results that are long sums, kernels split the sums, too.

    Args:
        use: The op use.
        flops: The FLOPs of one call, which determine the length of the sums.
    """
    if kind_of(use.op) != "matmul" or not use.outputs or len(use.outputs[0].shape) < 2 or not flops:
        return 0
    *batch, rows, columns = use.outputs[0].shape
    if base_name(use.op) not in ("bmm", "baddbmm", "matmul"):
        batch, rows = [], math.prod([*batch, rows])
    tiles = math.prod(batch) * math.ceil(rows / _TILE) * math.ceil(columns / _TILE)
    length = flops // max(1, 2 * stored_elements(use.outputs[0]))
    return tiles * max(1, length // _SUM)
