"""Where a Mac's dispatch leaves the way of a Linux build.

PyTorch's common code asks `#ifdef USE_MPS` in a handful of functions only (found by comparing the call graphs
of the macOS and the Linux library; 2.13: `_convolution`, `convolution_backward`, `lstm.input` and
`scaled_dot_product_attention`). Each is rebuilt here from PyTorch's source, so that the ops that reach the
MPS key are the Mac's. Ops that only MPS has are computed by CPU ops: `COMPUTED_BY`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual import schema
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
                "_mps_convolution_transpose", args, _flat(_conv_transpose) if flat else _conv_transpose
            )
            if bias is not None:
                result = result.add_(bias.reshape([1, -1] + [1] * (result.dim() - 2)))
        else:
            args = (x, weight, bias, padding, stride, dilation, groups)
            result = self._run("_mps_convolution", args, _flat(_conv) if flat else _conv)
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
            dx, dw = self._run("mps_convolution_transpose_backward", args, _conv_transpose_backward)
            db = grad.sum([0, *range(2, grad.dim())]) if mask[2] else None
        else:
            args = (x, grad, weight, padding, stride, dilation, groups, list(mask))
            dx, dw, db = self._run("mps_convolution_backward", args, _conv_backward)
        if flat:
            dx, dw = (one.squeeze(2) if one is not None else None for one in (dx, dw))
        return dx, dw, db


def _type_name(tensor: Tensor) -> str:
    """A tensor's type as this message writes it: `"MPSFloatType"`, but `"torch.FloatTensor"` for the host."""
    name = scalar_type(tensor.dtype)
    return f"MPS{name}Type" if tensor.is_mps else f"torch.{name}Tensor"


# ----------------------------------------------------------------- ops that only MPS has, computed by the CPU


def _conv(
    x: Tensor, w: Tensor, b: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    return aten.convolution.default(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)  # type: ignore[no-any-return]


def _conv_transpose(
    x: Tensor, w: Tensor, padding: Any, output_padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    return aten.convolution.default(x, w, None, stride, padding, dilation, True, output_padding, groups)  # type: ignore[no-any-return]


def _flat(compute: Callable[..., Tensor]) -> Kernel:
    """A 1-D convolution, as the CPU computes it: its results are then the CPU's bit for bit."""

    def computed(x: Tensor, w: Tensor, *rest: Any) -> Tensor:
        rest = tuple(one[1:] if isinstance(one, (list, tuple)) else one for one in rest)
        return compute(x.squeeze(2), w.squeeze(2), *rest).unsqueeze(2)

    return computed


def _conv_backward(
    x: Tensor,
    grad: Tensor,
    w: Tensor,
    padding: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [w.size(0)] if mask[2] else None
    zeros = [0] * len(stride)
    return aten.convolution_backward.default(  # type: ignore[no-any-return]
        grad, x, w, sizes, stride, padding, dilation, False, zeros, groups, list(mask)
    )


def _conv_transpose_backward(
    x: Tensor,
    grad: Tensor,
    w: Tensor,
    padding: Any,
    output_padding: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    dx, dw, _ = aten.convolution_backward.default(
        grad, x, w, None, stride, padding, dilation, True, output_padding, groups, [*mask, False]
    )
    return dx, dw


def _attention_math(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    dropout_mask: Tensor | None = None,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    # The host's own attention, so that results are those of a plain CPU run; the second result (weights) has
    # no reader.
    groups = {"enable_gqa": True} if enable_gqa else {}
    if dropout_mask is not None:
        return aten._scaled_dot_product_attention_math.default(  # type: ignore[no-any-return]
            q, k, v, attn_mask, dropout_p, is_causal, dropout_mask, scale=scale, **groups
        )
    out = aten.scaled_dot_product_attention.default(
        q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **groups
    )
    # the Mac's kernel fills a contiguous tensor (operations/Attention.mm), the CPU's a transposed one
    return out.contiguous(), q.new_zeros(1).expand(*q.shape[:-1], k.shape[-2])


def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
    nothing = torch.empty(0, device=x.device)
    # z state, cell states and layer outputs are what the Mac's backward reads; ours computes the forward
    # again
    return (*aten.lstm.input(x, list(hx), list(params), *options), nothing, nothing, nothing)


def _lstm_backward(
    grad_y: Tensor | None,
    grad_hy: Tensor | None,
    grad_cy: Tensor | None,
    _z_state: Tensor,
    _cell_state: Tensor,
    x: Tensor,
    _layers: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    *options: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    inputs = [one.detach().requires_grad_() for one in (x, *hx, *params)]
    keys = torch._C.DispatchKey
    include = torch._C._dispatch_tls_local_include_set()
    exclude = torch._C._dispatch_tls_local_exclude_set()
    for key in (keys.AutogradCPU, keys.ADInplaceOrView, keys.AutogradFunctionality):
        exclude = exclude.remove(key)
    # the autograd engine calls kernels with autograd excluded; here it is what computes the result
    with torch._C._ForceDispatchKeyGuard(include, exclude), torch.enable_grad():
        outputs = aten.lstm.input(inputs[0], inputs[1:3], inputs[3:], *options)
        pairs = [(o, g) for o, g in zip(outputs, (grad_y, grad_hy, grad_cy), strict=True) if g is not None]
        grads = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    filled = [g if g is not None else torch.zeros_like(i) for g, i in zip(grads, inputs, strict=True)]
    return filled[0], filled[1:3], filled[3:]


def _linear_backward(
    x: Tensor, grad: Tensor, weight: Tensor, mask: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    rows = grad.reshape(-1, grad.shape[-1])
    dx = rows.mm(weight).view(x.shape) if mask[0] else None
    dw = rows.t().mm(x.reshape(-1, x.shape[-1])) if mask[1] else None
    return dx, dw, rows.sum(0) if mask[2] else None


def _max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil: bool = False,
) -> Tensor:
    indices = aten.max_pool2d_with_indices.default(x, kernel, stride, padding, dilation, ceil)[1]
    return aten.max_pool2d_with_indices_backward.default(  # type: ignore[no-any-return]
        grad, x, kernel, stride, padding, dilation, ceil, indices
    )


COMPUTED_BY: dict[str, Kernel] = {
    "_mps_convolution": _conv,
    "_mps_convolution_transpose": _conv_transpose,
    "mps_convolution_backward": _conv_backward,
    "mps_convolution_transpose_backward": _conv_transpose_backward,
    "_scaled_dot_product_attention_math_for_mps": _attention_math,
    "_lstm_mps": _lstm,
    "lstm_mps_backward": _lstm_backward,
    "linear_backward": _linear_backward,
    "max_pool2d_backward": _max_pool2d_backward,
}


def install(kernels: Kernels, version: tuple[int, int], macos: tuple[int, int]) -> dict[str, Kernel]:
    """Give `kernels` what it needs of this module.

    Returns:
        Kernels that belong above autograd, by op.
    """
    kernels.computed_by.update(COMPUTED_BY)
    convolution = Convolution(kernels)
    kernels.special["convolution"] = convolution.forward
    kernels.special["_convolution"] = convolution.forward
    kernels.special["convolution_backward"] = convolution.backward
    return {"scaled_dot_product_attention": attention(version, macos), "lstm.input": lstm}
