"""Attention on MPS as in aten/src/ATen/native/transformers/attention.cpp, by release."""

from __future__ import annotations

import enum
import functools
import math
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.kernels import Kernel

aten = torch.ops.aten

#: From this release on the fused op of MPS is registered, and attention's mask may hide a whole row.
_FUSED = (2, 5)


def attention(version: tuple[int, int], macos: tuple[int, int]) -> Kernel:
    """Return `scaled_dot_product_attention` of a release on a macOS version.

    The fused op, which was added in 2.5, is used unless a gradient is needed. Releases up to 2.12 use it only with
    dropout 0, and in 2.5 and on macOS before 15 only with contiguous inputs. Before 2.12 grouped heads are repeated
    for it (aten/src/ATen/native/transformers/attention.cpp).
    """
    if version < _FUSED:
        return _attention_before_2_5
    fused = aten._scaled_dot_product_attention_math_for_mps.default
    plain = aten._scaled_dot_product_attention_math.default

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
        chosen = way(version, macos, query, key, value, attn_mask, dropout_p, enable_gqa=enable_gqa)
        if chosen is AttentionKernel.PLAIN:
            result = plain(
                query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
            )
            return result[0]  # type: ignore[no-any-return]
        groups = {"enable_gqa": True} if chosen is AttentionKernel.FUSED_GROUPS else {}
        if chosen is AttentionKernel.FUSED_REPEATED:
            times = query.size(-3) // key.size(-3)
            key, value = key.repeat_interleave(times, dim=-3), value.repeat_interleave(times, dim=-3)
        return fused(query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, **groups)[0]  # type: ignore[no-any-return]

    return scaled_dot_product_attention


class AttentionKernel(enum.Enum):
    """The implementation that computes one call of attention."""

    EARLY = enum.auto()  #: as before 2.5
    PLAIN = enum.auto()  #: by its composite op
    FUSED = enum.auto()  #: by the fused op
    FUSED_GROUPS = enum.auto()  #: by the fused op, which handles grouped heads
    FUSED_REPEATED = enum.auto()  #: by the fused op, after grouped heads are repeated


def way(
    version: tuple[int, int],
    macos: tuple[int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *_causal: bool,
    enable_gqa: bool = False,
    **_scale: float | None,
) -> AttentionKernel:
    """Return the implementation that a release uses for one call of `scaled_dot_product_attention`."""
    if version < _FUSED:
        return AttentionKernel.EARLY
    needs_grad = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    contiguous = all(one.is_contiguous() for one in (query, key, value))
    plain_inputs = contiguous or (macos >= (15, 0) and version >= (2, 6))
    if needs_grad or not (version >= (2, 13) or (dropout_p == 0.0 and plain_inputs)):
        return AttentionKernel.PLAIN
    if not enable_gqa:
        return AttentionKernel.FUSED
    # the message about key heads is in the fused op from 2.12 on, so it repeats them itself
    fused = aten._scaled_dot_product_attention_math_for_mps.default
    if version >= (2, 12) and _has_argument(fused, "enable_gqa"):
        return AttentionKernel.FUSED_GROUPS
    return AttentionKernel.FUSED_REPEATED if query.size(-3) > key.size(-3) else AttentionKernel.FUSED


def _repeated(heads: Tensor, count: int) -> Tensor:
    """Repeat each grouped head for all the query heads that share it."""
    *batch, own, length, width = heads.shape
    return (
        heads.unsqueeze(-3)
        .expand(*batch, own, count // own, length, width)
        .reshape(*batch, count, length, width)
    )


def _attention_before_2_5(
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
    """Compute `_scaled_dot_product_attention_math` of 2.1 to 2.4 without the ops that only later releases have."""
    if enable_gqa:
        # Those releases have no such argument. Code that passes it has checked the installed torch's version; on a Mac
        # with the older release it would have repeated the heads itself, as transformers' `repeat_kv` does.
        key, value = _repeated(key, query.size(-3)), _repeated(value, query.size(-3))
    _validate_attention(query, key, value, attn_mask, is_causal)
    factor = math.sqrt(abs(scale) if scale is not None else 1 / math.sqrt(query.size(-1)))
    query = query * (-factor if scale is not None and scale < 0 else factor)
    if is_causal:
        length = query.size(-2), key.size(-2)
        attn_mask = torch.ones(length, dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        shown = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = shown.masked_fill_(attn_mask.logical_not(), float("-inf"))
    weights = query @ (key.transpose(-2, -1) * factor)
    if attn_mask is not None:
        weights = weights.add_(attn_mask)
    weights = torch.softmax(weights, -1)
    if dropout_p > 0:
        weights = torch.dropout(weights, dropout_p, train=True)
    return weights @ value


#: Head sizes with a kernel that stores no scores, in the metallibs from 2.13 on (`prefill_attention_*_bd64_*`).
_PREFILL_HEADS = frozenset({32, 64, 72, 80, 96, 128, 256})
#: The number of half-precision query rows that later releases compute at once (kChunkSize of operations/Attention.mm).
_CHUNK = 3068


def scores_bytes(version: tuple[int, int], query: Tensor, key: Tensor) -> int:
    """Return the bytes of the buffer that the fused op allocates for its scores (queries x keys of every head).

    Up to 2.12 each of its kernels allocates one (sdpa_general_mps and the vector kernels of
    operations/Attention.mm). From 2.13 on the kernels for common head sizes allocate none (the result is 0), and the
    general one computes half precisions in chunks of 3,068 query rows.
    """
    rows, keys = query.shape[-2], key.shape[-2]
    heads = query.numel() // max(rows * query.shape[-1], 1)
    if version >= (2, 13):
        if query.shape[-1] in _PREFILL_HEADS:
            return 0
        rows = min(rows, _CHUNK) if query.element_size() == 2 else rows
    return int(heads * rows * keys * query.element_size())


@functools.cache
def _has_argument(overload: Any, name: str) -> bool:
    return any(argument.name == name for argument in overload._schema.arguments)


def _validate_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    """Raise the errors of validate_sdpa_input in attention.cpp."""
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
