"""FLOPs of matrix products, convolutions, recurrent layers and attention: a multiply-add counts as two.

This is the convention of `torch.utils.flop_counter`, with which the tests compare. There are two differences: a
complex multiply-add counts as four real ones (PyTorch's counter counts it as one), and the weight's gradient of a
convolution with groups takes as many multiply-adds as the forward pass (PyTorch's counter ignores the groups there).
"""

from __future__ import annotations

from math import prod

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.formulas.registry import OpFamily, formula, is_complex, numel


def product(rows: int, inner: int, columns: int, operand: TensorMeta) -> int:
    """Return the FLOPs of a `rows x inner` by `inner x columns` product of numbers of `operand`'s dtype."""
    return 2 * rows * inner * columns * (4 if is_complex(operand) else 1)


@formula(OpFamily.MATMUL, "mm", "bmm", "_scaled_mm", "_int_mm", "_grouped_mm", "_scaled_grouped_mm")
def _mm(use: OpUse) -> int:
    return _matrices(use.inputs[0], use.inputs[1])


@formula(OpFamily.MATMUL, "addmm", "baddbmm", "addbmm", "_addmm_activation", "sparse_addmm")
def _addmm(use: OpUse) -> int:
    return _matrices(use.inputs[1], use.inputs[2])


def _matrices(a: TensorMeta, b: TensorMeta) -> int:
    """Count a matrix-matrix product, batched if both operands have the same number of dimensions.

    If only one of them is batched (`_grouped_mm`), each row, column or inner index of the other belongs to one group,
    so the number of groups does not change the count.
    """
    batch = prod(a.shape[:-2]) if len(a.shape) == len(b.shape) else 1
    return batch * product(a.shape[-2], a.shape[-1], b.shape[-1], a)


@formula(OpFamily.MATMUL, "matmul")
def _matmul(use: OpUse) -> int:
    """Count a product with broadcast batches: every element of the result takes one inner product."""
    inner = use.inputs[0].shape[-1]
    return product(sum(map(numel, use.outputs)), inner, 1, use.inputs[0])


@formula(OpFamily.MATMUL, "mv", "dot", "vdot")
def _mv(use: OpUse) -> int:
    return product(numel(use.inputs[0]), 1, 1, use.inputs[0])


@formula(OpFamily.MATMUL, "addmv", "addr")
def _addmv(use: OpUse) -> int:
    if use.op.startswith("aten::addr"):
        return product(numel(use.inputs[1]), 1, numel(use.inputs[2]), use.inputs[1])
    return product(numel(use.inputs[1]), 1, 1, use.inputs[1])


@formula(OpFamily.MATMUL, "linear", "mkldnn_linear", "_mkldnn_linear", "mkl_linear")
def _linear(use: OpUse) -> int:
    x, weight = use.inputs[:2]
    return product(numel(x), 1, numel(weight) // weight.shape[-1] if weight.shape[-1] else 0, x)


@formula(
    OpFamily.MATMUL,
    "_weight_int4pack_mm",
    "_weight_int4pack_mm_for_cpu",
    "_weight_int8pack_mm",
    "_weight_int4pack_mm_with_scales_and_zeros",
)
def _packed(use: OpUse) -> int:
    """Count a product with a packed weight, whose columns are read from the result."""
    return sum(product(numel(out), use.inputs[0].shape[-1], 1, use.inputs[0]) for out in use.outputs)


@formula(OpFamily.MATMUL, "_dyn_quant_matmul_4bit")
def _dynamic_quantised(use: OpUse) -> int:
    x = use.inputs[0]
    return product(numel(x), 1, int(use.scalars["out_features"]), x)


@formula(OpFamily.MATMUL, "linear_backward")
def _linear_backward(use: OpUse) -> int:
    """Count one product for the input's gradient and one for the weight's, as the mask requests."""
    x, grad, weight = use.inputs[:3]
    wanted = sum(bool(flag) for flag in use.scalars["output_mask"][:2])
    return wanted * product(numel(grad), weight.shape[-1], 1, x)


def multiply_adds(x: TensorMeta, weight: TensorMeta, result: TensorMeta, transposed: bool) -> int:
    """Return the FLOPs of a forward convolution.

    Each point of the result (transposed: of the input) uses every element of the filters once. `weight` is
    `[out, in / groups, *kernel]` (transposed: `[in, out / groups, *kernel]`), so groups need no term.
    """
    points = prod((x if transposed else result).shape[2:])
    return 2 * x.shape[0] * points * numel(weight) * (4 if is_complex(x) else 1)


@formula(
    OpFamily.CONVOLUTION,
    "convolution",
    "_convolution",
    "convolution_overrideable",
    "cudnn_convolution",
    "cudnn_convolution_relu",
    "cudnn_convolution_add_relu",
    "cudnn_convolution_transpose",
    "mkldnn_convolution",
    "_mps_convolution",
    "_mps_convolution_transpose",
    "_slow_conv2d_forward",
    "slow_conv3d_forward",
    "slow_conv_dilated2d",
    "slow_conv_dilated3d",
    "slow_conv_transpose2d",
    "slow_conv_transpose3d",
    "_conv_depthwise2d",
    "conv_depthwise3d",
    "_nnpack_spatial_convolution",
)
def _forward(use: OpUse) -> int | None:
    x, weight = use.inputs[:2]
    transposed = bool(use.scalars.get("transposed")) or "transpose" in use.op
    if not use.outputs:
        return None
    return multiply_adds(x, weight, use.outputs[0], transposed)


@formula(
    OpFamily.CONVOLUTION,
    "convolution_backward",
    "convolution_backward_overrideable",
    "mps_convolution_backward",
)
def _backward(use: OpUse) -> int:
    """Count the gradients of input and weight that the mask requests; the sum for the bias is not counted."""
    grad, x, weight = use.inputs[:3] if "mps" not in use.op else (use.inputs[1], use.inputs[0], use.inputs[2])
    wanted = sum(bool(flag) for flag in use.scalars["output_mask"][:2])
    return wanted * multiply_adds(x, weight, grad, bool(use.scalars.get("transposed")))


@formula(OpFamily.CONVOLUTION, "conv_tbc")
def _time_first(use: OpUse) -> int:
    """Count a convolution with weight `[kernel, in, out]` on data `[time, batch, channel]`."""
    weight = use.inputs[1]
    return sum(2 * numel(out) * weight.shape[0] * weight.shape[1] for out in use.outputs)


@formula(OpFamily.RECURRENT, "lstm", "gru", "rnn_tanh", "rnn_relu", "_lstm_mps", "_cudnn_rnn")
def _layers(use: OpUse) -> int:
    """Count two FLOPs for each weight and each step of every sequence.

    Data and states are `[steps, batch, width]` (or batch first, or packed `[total steps, width]`); the weights are
    the matrices among the parameters. The pointwise work of the gates is small in comparison and not counted.
    """
    x = use.inputs[0]
    steps = numel(x) // x.shape[-1] if x.shape[-1] else 0
    packed = len(x.shape) == 2
    states = 1 if packed else 0  # packed data comes with a tensor of batch sizes
    matrices = [tensor for tensor in use.inputs[1 + states :] if len(tensor.shape) == 2]
    return 2 * steps * sum(map(numel, matrices))


@formula(OpFamily.RECURRENT, "mkldnn_rnn_layer")
def _one_layer(use: OpUse) -> int:
    x = use.inputs[0]
    return 2 * (numel(x) // x.shape[-1]) * sum(map(numel, use.inputs[1:3]))


@formula(OpFamily.RECURRENT, "_thnn_fused_lstm_cell")
def _lstm_cell(use: OpUse) -> int:
    """Count 13 FLOPs for each element of the state: 4 gates added, 5 activations, 3 products, 1 sum."""
    return 13 * numel(use.inputs[2])


@formula(OpFamily.RECURRENT, "_thnn_fused_gru_cell")
def _gru_cell(use: OpUse) -> int:
    """Count 10 FLOPs for each element of the state: 3 gates added, 3 activations, 2 products, 2 sums."""
    return 10 * numel(use.inputs[2])


def forward(batch: int, heads: int, queries: int, keys: int, width: int, value_width: int) -> int:
    """Return the FLOPs of `q @ k^T` and `scores @ v` for `heads` query heads, whether or not they share keys."""
    return 2 * batch * heads * queries * keys * (width + value_width)


def backward(batch: int, heads: int, queries: int, keys: int, width: int, value_width: int) -> int:
    """Return the FLOPs of five products: the scores again, then the gradients of values, scores, queries and keys.

    The products for scores, queries and keys have `width` as one side, those for the gradients of values and scores
    have `value_width`.
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
    """Count the gradients of attention; the inputs are the result's gradient, then query, key and value."""
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
