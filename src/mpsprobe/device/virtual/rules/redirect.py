"""Functions whose dispatch on a Mac differs from a Linux build.

PyTorch's common code has `#ifdef USE_MPS` in only a few functions (found by comparing the call graphs of the macOS
and the Linux library; in 2.13 `_convolution`, `convolution_backward`, `lstm.input` and
`scaled_dot_product_attention`; and `rms_norm`).
Each is rebuilt here from PyTorch's source, so that the ops that reach the MPS key
are the Mac's; attention is in `attention.py`. `computed.py` computes the ops that only MPS has.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.kernels import Kernel, Kernels
from mpsprobe.device.virtual.observer import FindingGrade, OpFlag
from mpsprobe.device.virtual.rules import computed
from mpsprobe.device.virtual.rules.attention import attention, scores_bytes, way
from mpsprobe.device.virtual.rules.messages import scalar_type

aten = torch.ops.aten


def lstm(
    x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Run `lstm.input` (aten/src/ATen/native/RNN.cpp), which is one op on MPS.

    Raises:
        RuntimeError: There are not two hidden states; the message is PyTorch's.
    """
    if len(hx) != 2:
        raise RuntimeError("lstm expects two hidden states")
    return aten._lstm_mps.default(x, list(hx), list(params), *options)[:3]  # type: ignore[no-any-return]


class RootMeanSquareNorm:
    """Run `rms_norm` as a release does, by aten/src/ATen/native/layer_norm.cpp.

    From 2.8 on MPS has a fused kernel, which has no backward (2.7 calls its code, but not as an op). A Mac uses it only
    with a weight and without gradients, and decomposes the op otherwise. A Linux build calls the fused op whenever the
    arguments are valid from 2.9 on, and never before.

    Args:
        kernels: The kernels that run the fused op, with the rules of the chosen release.
    """

    def __init__(self, kernels: Kernels) -> None:
        self._contract = kernels.contract
        self._fused: Any = getattr(aten, "_fused_rms_norm", None)
        #: whether the installed PyTorch is of 2.9 or later: other arguments, and the composite is the op's own
        self._is_composite = schema.composite_key("aten::_fused_rms_norm") == schema.ABOVE_AUTOGRAD

    def __call__(
        self,
        x: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        """Run `rms_norm` on `x`, over the last dimensions of sizes `normalized_shape`."""
        as_installed = functools.partial(
            schema.decomposed, aten.rms_norm.default, schema.ABOVE_AUTOGRAD, x, normalized_shape, weight, eps
        )
        sizes = tuple(normalized_shape)
        fits = sizes and tuple(x.shape[-len(sizes) :]) == sizes and (weight is None or weight.shape == sizes)
        if not fits or self._fused is None:
            return as_installed()  # type: ignore[no-any-return]
        self._contract.ask(lambda one: _takes_fused_norm(one.version, x, weight))
        version = self._contract.version
        if not _takes_fused_norm(version, x, weight):
            if self._is_composite and (weight is None or weight.dtype is x.dtype or version < (2, 9)):
                both = schema.decomposed(self._fused.default, schema.ABOVE_AUTOGRAD, x, sizes, weight, eps)
                return both[0]  # type: ignore[no-any-return]
            # the composite, from 2.9 on with a warning about two dtypes
            return as_installed()  # type: ignore[no-any-return]
        assert weight is not None
        if eps is None and (version < (2, 9) or not self._is_composite):
            eps = torch.finfo(torch.float64 if version < (2, 9) else torch.float32).eps
        if self._is_composite:
            return self._fused.default(x.contiguous(), sizes, weight, eps)[0]  # type: ignore[no-any-return]
        return self._fused.default(x.contiguous(), len(sizes), weight.contiguous(), eps)  # type: ignore[no-any-return]


def _takes_fused_norm(version: tuple[int, int], x: Tensor, weight: Tensor | None) -> bool:
    if version < (2, 8) or weight is None:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    if version < (2, 9):
        return x.is_floating_point() and weight.is_floating_point()
    in_order = suggest_memory_format(x) is torch.contiguous_format
    return in_order and not x.is_complex() and weight.dtype is x.dtype


class Convolution:
    """Run `convolution` and its backward as aten/src/ATen/native/Convolution.cpp does with `ConvBackend::Mps`."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels

    def _run(self, name: str, args: tuple[Any, ...], compute: Kernel) -> Any:
        overload = schema.overload_named(name)
        assert overload is not None
        return self._kernels.run(schema.facts(overload), args, {}, compute, OpFlag.REDIRECTED)

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
        *_flags: bool,
    ) -> Tensor:
        """Run `convolution` and `_convolution`; a 1-D convolution runs as a 2-D one of height 1."""
        x, weight, bias = self._same_type(x, weight, bias, transposed=transposed)
        flat = weight.dim() == 3
        if flat:
            x, weight = x.unsqueeze(2), weight.unsqueeze(2)
            stride, padding = [1, *stride], [0, *padding]
            dilation, output_padding = [1, *dilation], [0, *output_padding]
        if transposed:
            args: tuple[Any, ...] = (x, weight, padding, output_padding, stride, dilation, groups)
            result = self._run(
                "_mps_convolution_transpose",
                args,
                computed.flat(computed.conv_transpose) if flat else computed.conv_transpose,
            )
            if bias is not None:
                result = result.add_(bias.reshape([1, -1] + [1] * (result.dim() - 2)))
        else:
            args = (x, weight, bias, padding, stride, dilation, groups)
            result = self._run(
                "_mps_convolution", args, computed.flat(computed.conv) if flat else computed.conv
            )
        return result.squeeze(2) if flat else result  # type: ignore[no-any-return]

    def _same_type(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Raise for tensors of two dtypes on one device, and refuse those of two devices.

        Where failures are collected, tensors of two devices are moved to `mps` and returned.
        """
        others = [(weight, "weight")] + ([(bias, "bias")] if bias is not None else [])
        for other, what in others:
            if other.dtype is x.dtype and other.device == x.device:
                continue
            text = f"Input type ({_type_name(x)}) and {what} type ({_type_name(other)}) should be the same"
            if other.device == x.device:
                raise RuntimeError(text)
            if not (x.is_mps or transposed or weight.dim() == 5):
                # the CPU's convolution is chosen, and reaches a kernel that only raises this (mps/MPSFallback.mm)
                text = (
                    f"slow_conv2d_forward_mps: input(device='{x.device}') and weight(device={weight.device}')  "
                    "must be on the same device"
                )
            self._kernels.contract.fail(
                "device", "aten::_convolution", RuntimeError(text), FindingGrade.LIKELY
            )
        moved = bias.to("mps") if bias is not None else None
        return x.to("mps"), weight.to("mps"), moved

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        bias_sizes: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
        mask: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Run `convolution_backward`, and return the gradients of input, weight and bias that `mask` selects."""
        flat = weight.dim() == 3
        if flat:
            grad, x, weight = grad.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
            stride, padding = [1, *stride], [0, *padding]
            dilation, output_padding = [1, *dilation], [0, *output_padding]
        if transposed:
            args: tuple[Any, ...] = (
                x,
                grad,
                weight,
                padding,
                output_padding,
                stride,
                dilation,
                groups,
                list(mask[:2]),
            )
            dx, dw = self._run("mps_convolution_transpose_backward", args, computed.conv_transpose_backward)
            db = grad.sum([0, *range(2, grad.dim())]) if mask[2] else None
        else:
            args = (x, grad, weight, padding, stride, dilation, groups, list(mask))
            dx, dw, db = self._run("mps_convolution_backward", args, computed.conv_backward)
        if flat:
            dx, dw = (one.squeeze(2) if one is not None else None for one in (dx, dw))
        return dx, dw, db


#: From this release on `ldexp` takes the power in the dtype of half precisions (`ldexp_stub` is in the wheels).
_POWER_IN_HALF = (2, 11)


def _ldexp(version: tuple[int, int]) -> dict[str, Kernel]:
    """Return the kernels of `ldexp`, computed as a product because its stub has no MPS kernel (BinaryOps.cpp)."""

    def power(x: Tensor, exponent: Tensor) -> Tensor:
        if version < _POWER_IN_HALF or not x.is_floating_point() or x.dtype is torch.float32:
            return torch.pow(2.0, exponent)
        return torch.full((), 2.0, dtype=x.dtype, device=x.device).pow(exponent)

    def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
        return x * power(x, exponent)

    def ldexp_(x: Tensor, exponent: Tensor) -> Tensor:
        return x.mul_(power(x, exponent))

    def ldexp_out(x: Tensor, exponent: Tensor, *, out: Tensor) -> Tensor:
        return torch.mul(x, power(x, exponent), out=out)

    return {"ldexp.Tensor": ldexp, "ldexp_": ldexp_, "ldexp.out": ldexp_out}


def _kaiser(kernels: Kernels) -> Kernel:
    """Return `kaiser_window`, which fails on MPS for more than one element, because its stub has no kernel there.

    The wheels of 2.6 to 2.15 hold no name of such a kernel, so DispatchStub.cpp raises. A build without MPS has
    another message.
    """

    def window(length: int, periodic: bool = True, beta: float = 12.0, **options: Any) -> Tensor:
        if length > 1:
            error = RuntimeError("DispatchStub: missing kernel for mps")
            kernels.contract.fail("limit", "aten::kaiser_window", error, FindingGrade.LIKELY)
        options = {**options, "device": "cpu"}
        return torch.kaiser_window(length, periodic, beta, **options).to("mps")

    return window


def _type_name(tensor: Tensor) -> str:
    """Return the name of a tensor's type in PyTorch's message: `"MPSFloatType"`; `"torch.FloatTensor"` on the CPU."""
    name = scalar_type(tensor.dtype)
    return f"MPS{name}Type" if tensor.is_mps else f"torch.{name}Tensor"


def install(kernels: Kernels, version: tuple[int, int], macos: tuple[int, int]) -> dict[str, Kernel]:
    """Register the functions of this module, of `attention` and of `computed` in `kernels`.

    Args:
        kernels: The kernels of the session.
        version: The torch release, such as (2, 13).
        macos: The macOS version, such as (15, 5).

    Returns:
        The kernels that belong above autograd, by op.
    """
    kernels.computed_by.update(computed.COMPUTED_BY)
    fused = "_scaled_dot_product_attention_math_for_mps"

    def attention_with_scores(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Any:
        kernels.contract.ask(lambda one: scores_bytes(one.version, query, key))
        kernels.memory.reserve(scores_bytes(version, query, key))
        return computed.COMPUTED_BY[fused](query, key, *rest, **options)

    kernels.computed_by[fused] = attention_with_scores
    convolution = Convolution(kernels)
    kernels.special["convolution"] = convolution.forward
    kernels.special["_convolution"] = convolution.forward
    kernels.special["convolution_backward"] = convolution.backward
    if schema.composite_key("aten::ldexp.Tensor") != schema.ABOVE_AUTOGRAD:  # else there is no stub to ask
        kernels.special |= _ldexp(version)
    kernels.special |= dict.fromkeys(
        ("kaiser_window", "kaiser_window.periodic", "kaiser_window.beta"), _kaiser(kernels)
    )
    ours = attention(version, macos)

    def attention_of_release(*args: Any, **kwargs: Any) -> Tensor:
        kernels.contract.ask(lambda one: way(one.version, macos, *args, **kwargs))
        return ours(*args, **kwargs)  # type: ignore[no-any-return]

    above: dict[str, Kernel] = {"scaled_dot_product_attention": attention_of_release, "lstm.input": lstm}
    if schema.overload_named("_fused_rms_norm"):
        above["rms_norm"] = RootMeanSquareNorm(kernels)
    return above
