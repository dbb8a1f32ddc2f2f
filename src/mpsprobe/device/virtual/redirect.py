"""Where a Mac's dispatch leaves the way of a Linux build.

PyTorch's common code asks `#ifdef USE_MPS` in a handful of functions only (found by comparing the call graphs
of the macOS and the Linux library; 2.13: `_convolution`, `convolution_backward`, `lstm.input` and
`scaled_dot_product_attention`). Each is rebuilt here from PyTorch's source, so that the ops that reach the
MPS key are the Mac's. `computed.py` computes those that only MPS has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual import computed, schema
from mpsprobe.device.virtual.kernels import Kernel, Kernels
from mpsprobe.device.virtual.messages import scalar_type
from mpsprobe.device.virtual.observer import OpFlag

aten = torch.ops.aten


# -------------------------------------------------------------------------------------------------- attention


def attention(version: tuple[int, int], macos: tuple[int, int]) -> Kernel:
    """`scaled_dot_product_attention` as aten/src/ATen/native/transformers/attention.cpp has it on MPS.

    The fused op is used unless a gradient is needed. Releases up to 2.12 also ask for dropout 0, and for
    contiguous inputs on macOS before 15; they repeat grouped heads themselves.
    """
    fused = aten._scaled_dot_product_attention_math_for_mps.default
    plain = aten._scaled_dot_product_attention_math.default
    unconditional = version >= (2, 13)
    # the text about key heads sits in the fused op from 2.12 on, so it repeats them itself
    passes_groups = version >= (2, 12) and _has_argument(fused, "enable_gqa")

    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        _validate_attention(query, key, value, attn_mask, is_causal)
        if attn_mask is not None and attn_mask.dtype is torch.bool:
            hidden = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=attn_mask.device)
            attn_mask = torch.where(attn_mask, 0.0, hidden)
        needs_grad = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
        contiguous = all(one.is_contiguous() for one in (query, key, value))
        fits = unconditional or (
            dropout_p == 0.0 and (contiguous or (macos >= (15, 0) and version >= (2, 7)))
        )
        if needs_grad or not fits:
            result = plain(
                query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
            )
            return result[0]  # type: ignore[no-any-return]
        groups = {}
        if enable_gqa and passes_groups:
            groups = {"enable_gqa": True}
        elif enable_gqa and query.size(-3) > key.size(-3):
            times = query.size(-3) // key.size(-3)
            key, value = key.repeat_interleave(times, dim=-3), value.repeat_interleave(times, dim=-3)
        return fused(query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, **groups)[0]  # type: ignore[no-any-return]

    return scaled_dot_product_attention


def _has_argument(overload: Any, name: str) -> bool:
    return any(argument.name == name for argument in overload._schema.arguments)


def _validate_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    """validate_sdpa_input, attention.cpp."""
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{_cpp_dtype(q)} key.dtype: {_cpp_dtype(k)} and value.dtype: {_cpp_dtype(v)} instead."
        )
    if not q.device == k.device == v.device:
        raise RuntimeError(
            "Expected query, key, and value to have the same device type, but got query.device: "
            f"{q.device} key.device: {k.device} and value.device: {v.device} instead."
        )
    if min(q.dim(), k.dim(), v.dim()) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{q.dim()} key.dim: {k.dim()} and value.dim: {v.dim()} instead."
        )
    if attn_mask is not None:
        if attn_mask.dtype not in (torch.bool, torch.float32, q.dtype):
            raise RuntimeError(
                "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
                f"attn_mask.dtype: {_cpp_dtype(attn_mask)} and  query.dtype: {_cpp_dtype(q)} instead."
            )
        if is_causal:
            raise RuntimeError("Explicit attn_mask should not be set when is_causal=True")


_CPP_DTYPES = {
    "float32": "float",
    "float16": "c10::Half",
    "bfloat16": "c10::BFloat16",
    "float64": "double",
} | {
    "int64": "long",
    "int32": "int",
}


def _cpp_dtype(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return _CPP_DTYPES.get(name, name)


# ------------------------------------------------------------------------------------------------------- LSTM


def lstm(
    x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`lstm.input`, aten/src/ATen/native/RNN.cpp: one op on MPS."""
    if len(hx) != 2:
        raise RuntimeError("lstm expects two hidden states")
    return aten._lstm_mps.default(x, list(hx), list(params), *options)[:3]  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ convolution


class Convolution:
    """`convolution` and its backward, aten/src/ATen/native/Convolution.cpp with `ConvBackend::Mps`."""

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
        """`convolution` and `_convolution`; a 1-D convolution runs as a 2-D one of height 1."""
        for other, what in ((weight, "weight"), (bias, "bias")):
            if other is not None and (other.dtype is not x.dtype or other.device != x.device):
                raise RuntimeError(
                    f"Input type ({_type_name(x)}) and {what} type ({_type_name(other)}) should be the same"
                )
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
        """`convolution_backward`."""
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


def _type_name(tensor: Tensor) -> str:
    """A tensor's type as this message writes it: `"MPSFloatType"`, but `"torch.FloatTensor"` for the host."""
    name = scalar_type(tensor.dtype)
    return f"MPS{name}Type" if tensor.is_mps else f"torch.{name}Tensor"


def install(kernels: Kernels, version: tuple[int, int], macos: tuple[int, int]) -> dict[str, Kernel]:
    """Give `kernels` what it needs of this module.

    Returns:
        Kernels that belong above autograd, by op.
    """
    kernels.computed_by.update(computed.COMPUTED_BY)
    convolution = Convolution(kernels)
    kernels.special["convolution"] = convolution.forward
    kernels.special["_convolution"] = convolution.forward
    kernels.special["convolution_backward"] = convolution.backward
    return {"scaled_dot_product_attention": attention(version, macos), "lstm.input": lstm}
