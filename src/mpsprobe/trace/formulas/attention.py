"""FLOPs of attention kernels: the two products, scores and values.

The counts are those of `torch.utils.flop_counter`: a causal mask halves nothing, and softmax and scale are not
counted. That counter knows only CUDA's kernels and counts attention on CPU and MPS as 0; here every ATen variant
has the same formula.
"""

from __future__ import annotations

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas.registry import OpFamily, formula, numel


def forward(batch: int, heads: int, queries: int, keys: int, width: int, value_width: int) -> int:
    """Count `q @ k^T` and `scores @ v` for `heads` query heads (keys may be grouped, the products are not)."""
    return 2 * batch * heads * queries * keys * (width + value_width)


def backward(batch: int, heads: int, queries: int, keys: int, width: int, value_width: int) -> int:
    """Count five products: the scores again, then the gradients of values, scores, queries and keys.

    Three of them are `width` wide (scores, queries, keys), two `value_width` (values, scores' gradient).
    """
    return 2 * batch * heads * queries * keys * (3 * width + 2 * value_width)


@formula(
    OpFamily.ATTENTION,
    "scaled_dot_product_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "higher_order::flex_attention",
)
def _sdpa(use: OpUse) -> int:
    """Count attention on tensors `[batch, heads, length, width]`; MPS also takes `[heads, length, width]`."""
    return forward(*_sizes(use, 0))


@formula(
    OpFamily.ATTENTION,
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_fused_attention_overrideable_backward",
)
def _sdpa_backward(use: OpUse) -> int:
    """Count the gradients of attention; the sizes are read after the first input, the gradient of the result."""
    return backward(*_sizes(use, 1))


def _sizes(use: OpUse, first: int) -> tuple[int, int, int, int, int, int]:
    query, key, value = (tensor.shape for tensor in use.inputs[first : first + 3])
    batch = 1
    for size in query[:-3]:
        batch *= size
    heads = query[-3] if len(query) > 2 else 1
    return batch, heads, query[-2], key[-2], query[-1], value[-1]


@formula(OpFamily.ATTENTION, "_flash_attention_forward", "_efficient_attention_forward")
def _length_first(use: OpUse) -> int:
    return forward(*_length_first_sizes(use, 0))


@formula(OpFamily.ATTENTION, "_flash_attention_backward", "_efficient_attention_backward")
def _length_first_backward(use: OpUse) -> int:
    return backward(*_length_first_sizes(use, 1))


def _length_first_sizes(use: OpUse, first: int) -> tuple[int, int, int, int, int, int]:
    """Return the sizes of tensors `[batch, length, heads, width]`, or packed `[total length, heads, width]`.

    The lengths of packed sequences are values, so each counts as the longest. That is an upper bound, and what
    PyTorch's counter does for tensors without values.
    """
    query, key, value = (tensor.shape for tensor in use.inputs[first : first + 3])
    longest_query = use.scalars.get("max_q", use.scalars.get("max_seqlen_q"))
    longest_key = use.scalars.get("max_k", use.scalars.get("max_seqlen_k"))
    offsets = [
        tensor for tensor in use.inputs[first + 3 :] if len(tensor.shape) == 1 and "int" in tensor.dtype
    ]
    if offsets and longest_query and longest_key:
        sequences = offsets[0].shape[0] - 1
        return sequences, query[-2], int(longest_query), int(longest_key), query[-1], value[-1]
    return query[0], query[-2], query[-3], key[-3], query[-1], value[-1]


@formula(OpFamily.ATTENTION, "_native_multi_head_attention")
def _native_multi_head(use: OpUse) -> int:
    """Count `nn.MultiheadAttention`'s fast path: query, key, value, qkv_weight, qkv_bias, proj_weight."""
    query, key = use.inputs[0].shape, use.inputs[1].shape
    projections = 2 * query[0] * query[1] * (numel(use.inputs[3]) + numel(use.inputs[5]))
    return projections + forward(query[0], 1, query[1], key[1], query[2], query[2])


@formula(OpFamily.ATTENTION, "_transformer_encoder_layer_fwd")
def _encoder_layer(use: OpUse) -> int:
    """Count `nn.TransformerEncoderLayer`'s fast path; each matrix among the inputs is a weight."""
    x = use.inputs[0].shape
    tokens = x[0] * x[1]
    weights = [tensor for tensor in use.inputs[1:13] if len(tensor.shape) == 2]
    return 2 * tokens * sum(map(numel, weights)) + forward(x[0], 1, x[1], x[1], x[2], x[2])
