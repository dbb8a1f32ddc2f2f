"""Ops that only MPS has, or computes by other rules, computed by CPU ops on the host's memory.

Their results equal those of a plain CPU run, so that the emulation itself causes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Kernel = Callable[..., Any]

aten = torch.ops.aten


def conv(
    x: Tensor, w: Tensor, b: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    """Compute `aten::_mps_convolution` with the CPU's convolution, for inputs (N, C, *)."""
    return aten.convolution.default(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)  # type: ignore[no-any-return]


def conv_transpose(
    x: Tensor, w: Tensor, padding: Any, output_padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    """Compute `aten::_mps_convolution_transpose` with the CPU's transposed convolution, for inputs (N, C, *)."""
    return aten.convolution.default(x, w, None, stride, padding, dilation, True, output_padding, groups)  # type: ignore[no-any-return]


def flat(compute: Callable[..., Tensor]) -> Kernel:
    """Wrap a convolution of 2-D inputs of height 1 so that it runs in one dimension, as the CPU's own does.

    The results are then equal to the CPU's bit for bit.
    """

    def computed(x: Tensor, w: Tensor, *rest: Any) -> Tensor:
        rest = tuple(one[1:] if isinstance(one, (list, tuple)) else one for one in rest)
        return compute(x.squeeze(2), w.squeeze(2), *rest).unsqueeze(2)

    return computed


def conv_backward(
    x: Tensor,
    grad: Tensor,
    w: Tensor,
    padding: Any,
    stride: Any,
    dilation: Any,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `aten::mps_convolution_backward`: the gradients of input, weight and bias that `mask` selects."""
    sizes = [w.size(0)] if mask[2] else None
    zeros = [0] * len(stride)
    return aten.convolution_backward.default(  # type: ignore[no-any-return]
        grad, x, w, sizes, stride, padding, dilation, False, zeros, groups, list(mask)
    )


def conv_transpose_backward(
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
    """Compute `aten::mps_convolution_transpose_backward`: the gradients of input and weight that `mask` selects."""
    dx, dw, _ = aten.convolution_backward.default(
        grad, x, w, None, stride, padding, dilation, True, output_padding, groups, [*mask, False]
    )
    return dx, dw


def _bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """Compute `bincount`; with weights in their dtype if it is float32, float16 or int32, else in int32.

    The dtypes are those of operations/SummaryOps.mm.
    """
    counted = aten.bincount.default(x, weights, minlength)
    if weights is None or not x.numel():
        return counted  # type: ignore[no-any-return]
    kept = weights.dtype in (torch.float32, torch.float16, torch.int32)
    if not kept:
        counted = aten.bincount.default(x, weights.to(torch.int32), minlength)
    return counted.to(weights.dtype if kept else torch.int32)  # type: ignore[no-any-return]


_random = getattr(aten.random_, "from")  # a keyword, so it cannot be written as an attribute


def _random_from(x: Tensor, low: int, high: int | None = None, *, generator: Any = None) -> Tensor:
    """Compute `random_.from` by the rules of operations/Distributions.mm.

    On MPS only floating-point tensors must be able to hold the whole range.
    """
    if (
        high is None
        or x.dtype.is_floating_point
        or (x.dtype is not torch.bool and high - 1 <= torch.iinfo(x.dtype).max)
    ):
        return _random(x, low, high, generator=generator)  # type: ignore[no-any-return]
    wide = torch.empty(x.shape, dtype=torch.int64, device=x.device)
    return x.copy_(_random(wide, low, high, generator=generator))


def _random_to(x: Tensor, high: int, *, generator: Any = None) -> Tensor:
    """Compute `random_.to`: integers from 0 up to `high`, which is excluded."""
    return _random_from(x, 0, high, generator=generator)


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
    # The host's own attention, so that results are those of a plain CPU run; the second result (weights) is
    # not used.
    groups = {"enable_gqa": True} if enable_gqa else {}
    if dropout_mask is not None:
        return aten._scaled_dot_product_attention_math.default(  # type: ignore[no-any-return]
            q, k, v, attn_mask, dropout_p, is_causal, dropout_mask, scale=scale, **groups
        )
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask, dropout_p, is_causal, scale=scale, **groups
    )
    # the Mac's kernel fills a contiguous tensor (operations/Attention.mm), the CPU's a transposed one
    return out.contiguous(), q.new_zeros(1).expand(*q.shape[:-1], k.shape[-2])


def _lstm(x: Tensor, hx: Sequence[Tensor], params: Sequence[Tensor], *options: Any) -> tuple[Tensor, ...]:
    nothing = torch.empty(0, device=x.device)
    # the Mac's backward reads z state, cell states and layer outputs; this one computes the forward pass
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
    # the autograd engine calls kernels with autograd excluded; here autograd computes the result
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


def _pack_int4(weight: Tensor, inner_k_tiles: int) -> Tensor:
    """Compute `_convert_weight_to_int4pack`, which swaps the two halves of each byte (kernels/Quantized.metal)."""
    if weight.dim() != 2:
        raise RuntimeError("_convert_weight_to_int4pack_mps : expect weight to be 2D tensor.")
    if weight.dtype is not torch.uint8:
        raise RuntimeError("_convert_weight_to_int4pack_mps : expect weight to be kByte.")
    if inner_k_tiles not in (2, 4, 8):
        raise RuntimeError(
            f"_convert_weight_to_int4pack_mps : innerKTiles need to be 2, 4, or 8, got {inner_k_tiles}"
        )
    rows, half = weight.shape
    swapped = ((weight & 0xF) << 4) | (weight >> 4)
    tiles = (rows // 8, 2 * half // (16 * inner_k_tiles), 32, inner_k_tiles // 2)
    return swapped.contiguous().view(torch.int32).reshape(tiles)


def _int4_mm(x: Tensor, packed: Tensor, group: int, scales_and_zeros: Tensor) -> Tensor:
    """Compute `_weight_int4pack_mm` as in kernels/Quantized.metal: dequantise groups of a row, then multiply.

    A weight is (q - 8) * scale + zero.
    """
    rows, width = packed.shape[0] * 8, x.shape[1]
    for problem, text in (
        (x.dtype not in _FLOATS, " : expect A to be either 32-bit or 16-bit float tensor."),
        (not x.is_contiguous(), " : expect A to be contiguous."),
        (x.dim() != 2, " : expect A to be 2D tensor."),
        (packed.dtype is not torch.int32, " : expect B to be int32 tensor."),
        (packed.dim() != 4, " : expect B to 4d tensor."),
        (group not in (32, 64, 128, 256), f": expect qGroupSize to be 32, 64, 128 or 256, got {group}"),
        (
            scales_and_zeros.dim() != 3 or tuple(scales_and_zeros.shape[1:]) != (rows, 2),
            f": expect qScaleAndZeros to be 3d tensor with sizes [:, {rows}, 2]",
        ),
    ):
        if problem:
            raise RuntimeError(f"_weight_int4pack_mm_mps{text}")
    halves = packed.contiguous().view(torch.uint8).reshape(rows, width // 2)
    steps = torch.stack((halves & 0xF, halves >> 4), -1).reshape(rows, width).float() - 8
    each = scales_and_zeros.float().permute(1, 0, 2).repeat_interleave(group, 1)[:, :width]
    weight = steps * each[..., 0] + each[..., 1]
    return (x.float() @ weight.t()).to(x.dtype)


_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16})


def _fused_rms_norm(x: Tensor, normalized_dims: int, weight: Tensor, eps: float) -> Tensor:
    """Compute `_fused_rms_norm` of 2.8, which only MPS has and which takes a number of dimensions."""
    return aten.rms_norm.default(x, x.shape[x.dim() - normalized_dims :], weight, eps)  # type: ignore[no-any-return]


def _zeros(size: Sequence[int], **options: Any) -> Tensor:
    """Compute `_efficientzerotensor` in memory: relabelled, its result would be read where there is none."""
    options.pop("layout", None)
    return torch.zeros(size, **options)


COMPUTED_BY: dict[str, Kernel] = {
    "_convert_weight_to_int4pack": _pack_int4,
    "_weight_int4pack_mm": _int4_mm,
    "_mps_convolution": conv,
    "_mps_convolution_transpose": conv_transpose,
    "mps_convolution_backward": conv_backward,
    "mps_convolution_transpose_backward": conv_transpose_backward,
    "_scaled_dot_product_attention_math_for_mps": _attention_math,
    "_lstm_mps": _lstm,
    "lstm_mps_backward": _lstm_backward,
    "_efficientzerotensor": _zeros,
    "bincount": _bincount,
    "linear_backward": _linear_backward,
    "max_pool2d_backward": _max_pool2d_backward,
    "random_.from": _random_from,
    "random_.to": _random_to,
}
if hasattr(aten, "_fused_rms_norm") and len(aten._fused_rms_norm.default._schema.returns) == 1:
    COMPUTED_BY["_fused_rms_norm"] = _fused_rms_norm
