"""Checks that MPS kernels make of their arguments, with PyTorch's messages and the releases that have them.

Checks of dtypes, ranks and sizes are rules in `mpsprobe.knowledge.dtypes` (`data/ops/limits.toml`); here are those
of other arguments. The first and last release of each message are those of the strings in the macOS wheels. The
condition was read in PyTorch's sources (aten/src/ATen/native/mps/operations), so a finding from here has the grade
`likely` unless the condition is only a dtype. Conditions on the chip or on Metal cannot be known here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.observer import FindingGrade
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import dtypes

Minor = tuple[int, int]


class Call:
    """The arguments of a call, as the checks of kernels read them.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
    """

    __slots__ = ("args", "kwargs")

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    def __getitem__(self, position: int) -> Any:
        return self.args[position]

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the arguments, and those in their lists and tuples, one level deep."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found += [one for one in value if isinstance(one, Tensor)]
        return found

    def get(self, position: int, name: str = "", default: Any = None) -> Any:
        """Return an argument, whether passed by position or by name, or its default."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


Test = Callable[[Call], str | None]

_FIRST, _LAST = (2, 1), (99, 0)


@dataclass(frozen=True)
class KernelCheck:
    """A condition on the arguments that a kernel checks, with PyTorch's message for it.

    Attributes:
        ops: The base names of the ops that make it.
        test: A function that returns PyTorch's message when the arguments are refused, else None.
        error: The type of PyTorch's exception.
        since: The first release with it.
        until: The last release with it.
        macos_below: The macOS version below which it applies; None for all.
        grade: How certain its condition is.
        falls_back: Whether the message is a warning, and the CPU computes.
        by_dtype: Whether the test reads only the dtypes of the tensors.
    """

    ops: tuple[str, ...]
    test: Test
    error: type[Exception] = RuntimeError
    since: Minor = _FIRST
    until: Minor = _LAST
    macos_below: Minor | None = None
    grade: FindingGrade = FindingGrade.LIKELY
    falls_back: bool = False
    by_dtype: bool = False


_FLOAT = frozenset({torch.float32, torch.float16, torch.bfloat16})
_COMPLEX = frozenset({torch.complex64, torch.complex32})


def _not_in(dtypes: frozenset[torch.dtype], text: str, position: int = 0) -> Test:
    def test(call: Call) -> str | None:
        tensor = call.get(position)
        return text if isinstance(tensor, Tensor) and tensor.dtype not in dtypes else None

    return test


def _conv_channels(call: Call) -> str | None:
    x, weight = call[0], call[1]
    padding, stride, dilation = call[3], call[4], call[5]
    sizes = [weight.size(0)]
    for k in range(2, x.dim()):
        reach = dilation[k - 2] * (weight.size(k) - 1) + 1
        sizes.append((x.size(k) + 2 * padding[k - 2] - reach) // stride[k - 2] + 1)
    # the check covers all sizes of the output, so a long 1-D signal meets it too
    return "Output channels > 65536 not supported at the MPS device. " if max(sizes) > 1 << 16 else None


def _lstm_projections(call: Call) -> str | None:
    params, has_biases, layers, bidirectional = call[2], call[3], call[4], call[7]
    each = len(params) // (layers * (2 if bidirectional else 1))
    return (
        "LSTM with projections is not currently supported with MPS."
        if each > (4 if has_biases else 2)
        else None
    )


_POOL_ISSUE = (
    " Non-divisible input sizes are not implemented on MPS device yet. For now, you can manually transfer "
    "tensor to cpu in this case. Please refer to [this issue](https://github.com/pytorch/pytorch/issues/96056)"
)


def _adaptive_pool(link: str) -> Test:
    def test(call: Call) -> str | None:
        height, width = call[0].shape[-2:]
        to_height, to_width = call[1]
        if height >= to_height and width >= to_width:
            if height % to_height or width % to_width:
                return f"Adaptive pool MPS: input sizes must be divisible by output sizes.{link}"
        elif height <= to_height and width <= to_width:
            if to_height % height or to_width % width:
                return f"Adaptive pool MPS: output sizes must be divisible by input sizes.{link}"
        else:
            return (
                "Adaptive pool MPS: Input height and width must both be greater than, or equal to, or lesser "
                "than output height and width"
            )
        return None

    return test


def _grid_border(call: Call) -> str | None:
    return "MPS: Unsupported Border padding mode" if call[3] == 1 else None


def _grid_bicubic(call: Call) -> str | None:
    return "MPS: Unsupported Bicubic interpolation" if call[2] == 2 else None


def _grid_nearest(call: Call) -> str | None:
    return "grid_sampler_3d: Unsupported Nearest interpolation" if call[2] == 1 else None


def _fused_sgd_scaler(call: Call) -> str | None:
    scaled = call.kwargs.get("grad_scale") is not None or call.kwargs.get("found_inf") is not None
    return "grad_scale and found_inf are not supported on MPS" if scaled else None


def _complex_scalar(*names: str, position: int = 99) -> Test:
    """Refuse a number with an imaginary part that the kernel reads with `Scalar::toDouble`."""

    def test(call: Call) -> str | None:
        values = [call.get(position, name) for name in names]
        refused = any(isinstance(one, complex) and one.imag for one in values)
        return "value cannot be converted to type double without overflow" if refused else None

    return test


def _attention_dropout(call: Call) -> str | None:
    dropout = call.get(4, "dropout_p", 0.0)
    return "scaled_dot_product_attention for MPS does not support dropout." if dropout else None


def _lu_pivot(call: Call) -> str | None:
    pivot = call.get(1, "pivot", True)
    return None if pivot else "linalg.lu_factor(): MPS doesn't allow pivot == False."


def _sparse_grad(call: Call) -> str | None:
    sparse = call.get(3, "sparse_grad")
    return "sparse_grad not supported in MPS yet" if sparse else None


def _index_reduce(call: Call) -> str | None:
    # of the first tensor; the index is always int64, so a rule about dtypes only cannot decide
    refused = isinstance(call[0], Tensor) and call[0].dtype is torch.int64
    return "index_reduce for MPS does not support torch.long dtype" if refused else None


def _accumulated(call: Call) -> str | None:
    # getIndexFunctionName of operations/Indexing.mm: atomic additions are those of float and int
    target, values = call.get(0, "self"), call.get(2, "values")
    if (
        not call.get(3, "accumulate", False)
        or not isinstance(target, Tensor)
        or not isinstance(values, Tensor)
    ):
        return None
    name = _METAL_NAMES.get(target.dtype)
    if name is None or not target.numel() or not values.numel():
        return None
    return f"Unsupported data type for accumulate case: {name}"


#: getMPSTypeString of OperationUtils.mm, for the dtypes that it refuses here.
_METAL_NAMES = {
    torch.float16: "Float16",
    torch.bfloat16: "BFloat16",
    torch.int64: "Int64",
    torch.int16: "Int16",
    torch.int8: "Int8",
    torch.uint8: "UInt8",
    torch.bool: "Bool",
    torch.complex32: "ComplexFloat16",
    torch.complex64: "ComplexFloat32",
}


def _scattered_extreme(dtype: torch.dtype, text: str) -> Test:
    # scatter_reduce_two_mps_kernel of operations/ScatterGather.mm
    def test(call: Call) -> str | None:
        target, reduce = call.get(0, "self"), call.get(4, "reduce")
        refused = isinstance(target, Tensor) and target.dtype is dtype and reduce in ("amax", "amin")
        return text if refused else None

    return test


def _half_to_float(call: Call) -> str | None:
    convert = call.get(2, "half_to_float")
    return "softmax with half to float conversion is not supported on MPS" if convert else None


def _truncated_half(call: Call) -> str | None:
    half = isinstance(call[0], Tensor) and call[0].dtype is torch.float16
    truncated = half and call.kwargs.get("rounding_mode") == "trunc"
    return "MPS: does not support trunc_divide op with float16 input" if truncated else None


def _dimensions(call: Call) -> str | None:
    rank = len(call[0])
    return f"MPS supports tensors with dimensions <= 16, but got {rank}." if rank > 16 else None


_IMPROVE = (
    " to be true, but got false.  (Could this error message be improved?  If so, please report an enhancement request "
    "to PyTorch.)"
)


def _isin_devices(call: Call) -> str | None:
    pair = [one for one in (call.get(0, "elements"), call.get(1, "test_elements")) if isinstance(one, Tensor)]
    strangers = len(pair) == 2 and not all(one.is_mps for one in pair) and all(one.numel() for one in pair)
    return f"Expected elements.is_mps() && test_elements.is_mps(){_IMPROVE}" if strangers else None


def _isin_dtypes(call: Call) -> str | None:
    pair = [one for one in (call.get(0, "elements"), call.get(1, "test_elements")) if isinstance(one, Tensor)]
    differ = len(pair) == 2 and pair[0].dtype is not pair[1].dtype and all(one.numel() for one in pair)
    return f"Expected elements.dtype() == test_elements.dtype(){_IMPROVE}" if differ else None


def _normal_dtype(call: Call) -> str | None:
    target = call.get(0, "self") if "out" not in call.kwargs else call.kwargs["out"]
    if not isinstance(target, Tensor) or target.dtype in _FLOAT:
        return None
    return f"Unsupported type {dtypes.scalar_type(str(target.dtype).removeprefix('torch.'))} for operation normal"


def _has_memory(tensor: Tensor) -> bool:
    return tensor.numel() > 0 or tensor.untyped_storage().nbytes() > 0


def _is_empty(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and not _has_memory(tensor)


# Empty operands whose kernel returns early in some cases only; the other kernels are rules of `data/ops/limits.toml`.
def _addmv_empty(call: Call) -> str | None:
    # the product of matrix and vector has its own buffer, as long as the matrix has rows
    matrix = call.get(1, "mat")
    return dtypes.EMPTY if isinstance(matrix, Tensor) and not matrix.size(0) else None


def _addbmm_empty(call: Call) -> str | None:
    batches = [call.get(1, "batch1"), call.get(2, "batch2")]
    if not all(isinstance(one, Tensor) for one in batches) or not batches[0].size(0):
        return None
    return dtypes.EMPTY if any(_is_empty(one) for one in (call.get(0, "self"), *batches)) else None


def _index_add_empty(call: Call) -> str | None:
    index = call.get(2, "index")
    if not isinstance(index, Tensor) or not index.numel():
        return None
    return dtypes.EMPTY if _is_empty(call.get(0, "self")) or _is_empty(call.get(3, "source")) else None


def _index_add_source(call: Call) -> str | None:
    source = call.get(3, "source")
    refused = isinstance(source, Tensor) and source.dtype is torch.int64
    return "index_add(): Expected non int64 dtype for source." if refused else None


_LINEAR = _FLOAT | _COMPLEX
_CHECKS: tuple[KernelCheck, ...] = (
    KernelCheck(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float inputs"),
        grade=FindingGrade.CERTAIN,
        by_dtype=True,
    ),
    KernelCheck(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float weights", 1),
        since=(2, 4),
        by_dtype=True,
    ),
    KernelCheck(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float bias", 2),
        since=(2, 4),
        by_dtype=True,
    ),
    KernelCheck(
        ("_mps_convolution",), _conv_channels, NotImplementedError, since=(2, 6), macos_below=(15, 1)
    ),
    KernelCheck(("_mps_convolution",), _conv_channels, NotImplementedError, since=(2, 5), until=(2, 5)),
    KernelCheck(("_lstm_mps",), _lstm_projections, grade=FindingGrade.CERTAIN),
    KernelCheck(("_adaptive_avg_pool2d", "adaptive_avg_pool2d"), _adaptive_pool(""), until=(2, 3)),
    KernelCheck(
        ("_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
        _adaptive_pool(_POOL_ISSUE),
        NotImplementedError,
        since=(2, 4),
    ),
    KernelCheck(("grid_sampler_2d",), _grid_border, until=(2, 10)),
    KernelCheck(("grid_sampler_2d",), _grid_bicubic, until=(2, 10)),
    # BinaryOps.mm, LinearAlgebra.mm, Blas.mm, PointwiseOps.mm and Pad.mm of 2.6, the only release read for them
    KernelCheck(("add", "add_", "sub", "sub_"), _complex_scalar("alpha"), since=(2, 6), until=(2, 6)),
    KernelCheck(("lerp", "lerp_"), _complex_scalar("weight", position=2), since=(2, 6), until=(2, 6)),
    KernelCheck(
        ("addcmul", "addcmul_", "addcdiv", "addcdiv_"), _complex_scalar("value"), since=(2, 6), until=(2, 6)
    ),
    KernelCheck(("constant_pad_nd",), _complex_scalar("value", position=2), since=(2, 6), until=(2, 6)),
    KernelCheck(
        (
            *("addmm", "addmm_", "addmv", "addmv_", "addr", "addr_"),
            *("addbmm", "addbmm_", "baddbmm", "baddbmm_"),
        ),
        _complex_scalar("alpha", "beta"),
        since=(2, 6),
        until=(2, 6),
    ),
    KernelCheck(("grid_sampler_3d",), _grid_nearest, since=(2, 9), until=(2, 12)),
    KernelCheck(("_fused_sgd_",), _fused_sgd_scaler, since=(2, 5), until=(2, 7)),
    KernelCheck(
        ("_scaled_dot_product_attention_math_for_mps",),
        _attention_dropout,
        NotImplementedError,  # so in public reports of transformers 5 and nn.MultiheadAttention
        since=(2, 13),
    ),
    KernelCheck(("linalg_lu_factor", "linalg_lu_factor_ex"), _lu_pivot, since=(2, 5)),
    KernelCheck(("gather",), _sparse_grad, until=(2, 12)),
    KernelCheck(("index_reduce", "index_reduce_"), _index_reduce, since=(2, 12), grade=FindingGrade.CERTAIN),
    KernelCheck(("_index_put_impl_",), _accumulated, until=(2, 7)),
    KernelCheck(
        ("scatter_reduce", "scatter_reduce_"),
        _scattered_extreme(torch.int64, "not supported for torch.int64"),
        since=(2, 6),
        until=(2, 12),
    ),
    KernelCheck(
        ("scatter_reduce", "scatter_reduce_"),
        _scattered_extreme(torch.int32, "torch.int32 is only supported on MacOS15+"),
        since=(2, 6),
        until=(2, 12),
        macos_below=(15, 0),
    ),
    KernelCheck(("_softmax", "_log_softmax"), _half_to_float, until=(2, 14)),
    KernelCheck(("div", "div_"), _truncated_half, until=(2, 7)),
    KernelCheck(("isin",), _isin_devices, until=(2, 7)),
    KernelCheck(("isin",), _isin_dtypes, until=(2, 7), grade=FindingGrade.CERTAIN),
    # random_mps_impl of operations/Distributions.mm; the message is in the wheels up to 2.12
    KernelCheck(
        ("normal_",), _normal_dtype, TypeError, since=(2, 2), until=(2, 12), grade=FindingGrade.CERTAIN
    ),
    KernelCheck(("empty",), _dimensions),
    KernelCheck(("addmv", "addmv_", "mv"), _addmv_empty, since=(2, 4), until=(2, 9)),
    KernelCheck(("addbmm", "addbmm_"), _addbmm_empty, since=(2, 6), until=(2, 6)),
    KernelCheck(
        ("index_add", "index_add_"),
        _index_add_source,
        since=(2, 6),
        until=(2, 6),
        grade=FindingGrade.CERTAIN,
    ),
    KernelCheck(("index_add", "index_add_"), _index_add_empty, since=(2, 6), until=(2, 6)),
)


def for_op(op: str, base: str, version: Minor, macos: Minor) -> tuple[KernelCheck, ...]:
    """Return the checks that an op's kernel makes of its arguments in a release on a macOS version.

    Args:
        op: The overload name, such as `"aten::mm"`.
        base: The name without namespace and overload, such as `"mm"`.
        version: The torch release, such as (2, 13).
        macos: The macOS version, such as (15, 5).
    """
    found = [
        check
        for check in _CHECKS
        if base in check.ops
        and check.since <= version <= check.until
        and (check.macos_below is None or macos < check.macos_below)
    ]
    return (*found, *map(_from_rule, _rules(op, version, macos)))


def _rules(op: str, version: Minor, macos: Minor) -> Iterator[dtypes.Rule]:
    """Yield the certain rules by which an op raises or falls back that can be tested on its arguments.

    Rules for all ops are left out, because `Kernels.wrap` applies them, and so are those about outputs. Messages that
    begin with a colon are left out too: they are from checks in PyTorch's common code, which the CPU's op also makes.
    """
    try:
        rules = dtypes.rules(op, f"{version[0]}.{version[1]}", f"{macos[0]}.{macos[1]}")
    except UsageError:  # another library's op
        return
    for rule in rules:
        by_output = rule.indivisible or (rule.limit is not None and rule.limit.of is dtypes.Tensors.OUTPUTS)
        seen = rule.certain and rule.effect in (dtypes.Effect.RAISES, dtypes.Effect.FALLBACK)
        if seen and not by_output and "*" not in rule.ops and not rule.message.startswith(":"):
            yield rule


@functools.lru_cache(maxsize=4096)  # so that equal checks of two releases are one object
def _from_rule(rule: dtypes.Rule) -> KernelCheck:
    refused = frozenset(getattr(torch, name) for name in rule.refused if hasattr(torch, name))

    def test(call: Call) -> str | None:
        tensors = call.tensors()
        if refused and not any(one.dtype in refused for one in tensors):
            return None
        if rule.limit is not None and not any(_beyond(rule.limit, one) for one in tensors):
            return None
        return dtypes.text(rule, {str(one.dtype).removeprefix("torch.") for one in tensors})

    error = NotImplementedError if rule.error == "NotImplementedError" else RuntimeError
    grade = FindingGrade.LIKELY if rule.needs_shapes else FindingGrade.CERTAIN
    return KernelCheck(
        rule.ops,
        test,
        error,
        grade=grade,
        falls_back=rule.effect is dtypes.Effect.FALLBACK,
        by_dtype=rule.limit is None,
    )


def _beyond(limit: dtypes.Limit, tensor: Tensor) -> bool:
    amount = {
        dtypes.Quantity.RANK: tensor.dim(),
        dtypes.Quantity.ELEMENTS: tensor.numel(),
        dtypes.Quantity.BYTES: tensor.numel() * tensor.element_size(),
        dtypes.Quantity.SIZE: max(tensor.shape, default=0),
    }
    # an empty view of a storage with memory has a buffer, and is not refused for being empty
    return not limit.allows(amount[limit.what]) and not (limit.least and _has_memory(tensor))
