"""Checks that MPS kernels make of their arguments, with PyTorch's texts and the releases that have them.

The first and last release of each text are those of the strings in the macOS wheels; the condition is read
from PyTorch's sources (aten/src/ATen/native/mps/operations), so a finding from here is graded `likely` unless
the condition is just a dtype. What depends on the chip or on Metal cannot be known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.observer import Grade

Version = tuple[int, int]


class Call:
    """The arguments of one call.

    Args:
        args: by position.
        kwargs: by name.
    """

    __slots__ = ("args", "kwargs")

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    def __getitem__(self, position: int) -> Any:
        return self.args[position]

    def get(self, position: int, name: str = "", default: Any = None) -> Any:
        """An argument wherever it was passed, or its default."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


Test = Callable[[Call], str | None]

_FIRST, _LAST = (2, 1), (99, 0)


@dataclass(frozen=True)
class Check:
    """One check of a kernel.

    Attributes:
        ops: base names of the ops that make it.
        test: returns PyTorch's text when the arguments are refused, else None.
        error: PyTorch's exception type.
        since, until: first and last release with it.
        macos_below: only on older systems; None: on all.
        grade: how sure its condition is.
    """

    ops: tuple[str, ...]
    test: Test
    error: type[Exception] = RuntimeError
    since: Version = _FIRST
    until: Version = _LAST
    macos_below: Version | None = None
    grade: Grade = Grade.LIKELY


_FLOAT = frozenset({torch.float32, torch.float16, torch.bfloat16})
_COMPLEX = frozenset({torch.complex64, torch.complex32})


def _not_in(dtypes: frozenset[torch.dtype], text: str, position: int = 0) -> Test:
    def test(call: Call) -> str | None:
        tensor = call.get(position)
        return text if isinstance(tensor, Tensor) and tensor.dtype not in dtypes else None

    return test


def _any_in(dtypes: frozenset[torch.dtype], text: str) -> Test:
    def test(call: Call) -> str | None:
        tensors: Iterator[Any] = (one for one in call.args if isinstance(one, Tensor))
        return text if any(one.dtype in dtypes for one in tensors) else None

    return test


def _always(text: str) -> Test:
    return lambda _call: text


_LONG = frozenset({torch.int64})
_HALVES = frozenset({torch.float16, torch.bfloat16})


def _conv_transpose3d(call: Call) -> str | None:
    return "ConvTranspose 3D is not supported on MPS" if call[0].dim() == 5 else None


def _conv_transpose3d_half(call: Call) -> str | None:
    half = call[0].dim() == 5 and call[0].dtype in _HALVES
    return "ConvTranspose 3D with BF16 or FP16 types is not supported on MPS" if half else None


def _conv_channels(call: Call) -> str | None:
    x, weight = call[0], call[1]
    padding, stride, dilation = call[3], call[4], call[5]
    sizes = [weight.size(0)]
    for k in range(2, x.dim()):
        reach = dilation[k - 2] * (weight.size(k) - 1) + 1
        sizes.append((x.size(k) + 2 * padding[k - 2] - reach) // stride[k - 2] + 1)
    # the check goes over all sizes of the output, so a long 1-D signal meets it too
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


def _attention_dropout(call: Call) -> str | None:
    dropout = call.get(4, "dropout_p", 0.0)
    return "scaled_dot_product_attention for MPS does not support dropout." if dropout else None


def _lu_pivot(call: Call) -> str | None:
    pivot = call.get(1, "pivot", True)
    return None if pivot else "linalg.lu_factor(): MPS doesn't allow pivot == False."


def _sparse_grad(call: Call) -> str | None:
    sparse = call.get(3, "sparse_grad")
    return "sparse_grad not supported in MPS yet" if sparse else None


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


_LINEAR = _FLOAT | _COMPLEX
_CHECKS: tuple[Check, ...] = (
    Check(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float inputs"),
        grade=Grade.CERTAIN,
    ),
    Check(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float weights", 1),
        since=(2, 4),
    ),
    Check(
        ("linear",),
        _not_in(_LINEAR, "MPS device does not support linear for non-float bias", 2),
        since=(2, 4),
    ),
    Check(("mm",), _not_in(_LINEAR, "MPS device does not support mm for non-float inputs"), until=(2, 6)),
    Check(("bmm",), _not_in(_LINEAR, "MPS device does not support bmm for non-float inputs"), until=(2, 6)),
    Check(
        ("addmm",), _not_in(_LINEAR, "MPS device does not support addmm for non-float input"), until=(2, 8)
    ),
    Check(
        ("baddbmm", "addbmm"),
        _not_in(_LINEAR, "MPS device does not support addbmm or baddbmm for non-float inputs"),
        until=(2, 10),
    ),
    Check(("addr",), _not_in(_LINEAR, "MPS device does not support addr for non-float input")),
    Check(("dot",), _any_in(_LONG, "MPS: dot op doesn't support int64 input"), until=(2, 6)),
    Check(("log1p",), _any_in(_LONG, "MPS does not support log1p op with int64 input"), until=(2, 7)),
    Check(("sigmoid",), _any_in(_LONG, "MPS does not support sigmoid op with int64 input"), until=(2, 7)),
    Check(("atan2",), _any_in(_LONG, "MPS does not support atan2 op with int64 input"), until=(2, 6)),
    Check(("_mps_convolution_transpose",), _conv_transpose3d, until=(2, 7)),
    Check(("_mps_convolution_transpose",), _conv_transpose3d_half, since=(2, 8)),
    Check(
        ("_mps_convolution",),
        _not_in(_FLOAT, "Convolution is supported only for Floating types"),
    ),
    Check(("_mps_convolution",), _conv_channels, NotImplementedError, since=(2, 6), macos_below=(15, 1)),
    Check(("_mps_convolution",), _conv_channels, NotImplementedError, since=(2, 5), until=(2, 5)),
    Check(("_lstm_mps",), _lstm_projections, grade=Grade.CERTAIN),
    Check(("_adaptive_avg_pool2d", "adaptive_avg_pool2d"), _adaptive_pool(""), until=(2, 3)),
    Check(
        ("_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
        _adaptive_pool(_POOL_ISSUE),
        NotImplementedError,
        since=(2, 4),
    ),
    Check(("grid_sampler_2d",), _grid_border, until=(2, 10)),
    Check(("grid_sampler_2d",), _grid_bicubic, until=(2, 10)),
    Check(("_scaled_dot_product_attention_math_for_mps",), _attention_dropout, since=(2, 13)),
    Check(("linalg_lu_factor", "linalg_lu_factor_ex"), _lu_pivot, since=(2, 5)),
    Check(
        ("linalg_lu_factor", "linalg_lu_factor_ex"),
        _any_in(_COMPLEX, "linalg.lu_factor(): MPS doesn't support complex types."),
        since=(2, 5),
        until=(2, 14),
    ),
    Check(
        ("linalg_inv_ex",),
        _any_in(_COMPLEX, "linalg_inv: not supported for complex types yet!"),
        since=(2, 3),
    ),
    Check(
        ("linalg_solve_triangular", "triangular_solve"),
        _any_in(_COMPLEX, "linalg.solve.triangular(); Not supported for complex yet!"),
        since=(2, 3),
        until=(2, 9),
    ),
    Check(("gather",), _sparse_grad, until=(2, 12)),
    Check(
        ("gather",), _any_in(_COMPLEX, "gather(): Yet not supported for complex"), since=(2, 3), until=(2, 11)
    ),
    Check(
        ("scatter",),
        _any_in(_COMPLEX, "scatter(): Yet not supported for complex"),
        since=(2, 3),
        until=(2, 11),
    ),
    Check(
        ("repeat",),
        _any_in(_COMPLEX, "repeat(): Not supported for complex yet!"),
        since=(2, 3),
        until=(2, 11),
    ),
    Check(
        ("nonzero",),
        _any_in(_COMPLEX, "MPS: nonzero op is not supported for complex datatypes."),
        since=(2, 3),
        until=(2, 11),
    ),
    Check(
        ("linear",),
        _any_in(_COMPLEX, "mps linear does not support complex types"),
        since=(2, 8),
        until=(2, 11),
    ),
    Check(
        ("_fft_r2c", "_fft_c2r", "_fft_c2c"),
        _always("FFT operations are only supported on MacOS 14+"),
        since=(2, 3),
        until=(2, 8),
        macos_below=(14, 0),
    ),
    Check(("_softmax", "_log_softmax"), _half_to_float, until=(2, 14)),
    Check(("div", "div_"), _truncated_half, until=(2, 7)),
    Check(("empty", "empty_strided"), _dimensions),
)


def for_release(version: Version, macos: Version) -> dict[str, list[Check]]:
    """The checks in force, by base name of the op."""
    found: dict[str, list[Check]] = {}
    for check in _CHECKS:
        if check.since <= version <= check.until and (check.macos_below is None or macos < check.macos_below):
            for op in check.ops:
                found.setdefault(op, []).append(check)
    return found
