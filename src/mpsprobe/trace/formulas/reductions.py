"""FLOPs of ops whose input has more elements than their result: sums, norms, softmax, pooling, scatters.

The convention is that of `pointwise`, for each element of the input: a formula of several steps counts as
several.
"""

from __future__ import annotations

from math import prod

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas.pointwise import on_floats
from mpsprobe.trace.formulas.registry import Formula, OpFamily, formula, is_complex, is_floating, numel

#: The FLOPs for each element of the first floating-point input, and the ops that take them.
STEPS = {
    # Only indices, or each element is passed on once.
    0: "nll_loss_forward nll_loss2d_forward nll_loss_backward nll_loss2d_backward",
    # Each element is added, or compared, once; adaptive windows cover the input once.
    1: """sum nansum mean prod amax amin max min argmax argmin aminmax _aminmax trace
        embedding_dense_backward col2im _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d
        avg_pool2d_backward avg_pool3d_backward _adaptive_avg_pool2d_backward
        _adaptive_avg_pool3d_backward max_pool2d_with_indices_backward max_pool2d_backward
        upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward""",
    # Square, sum; or an affine map, to which a normalisation with known statistics reduces.
    2: "norm linalg_vector_norm linalg__powsum _native_batch_norm_legit_no_training _batch_norm_no_update",
    3: "dist _euclidean_dist mse_loss mse_loss_backward _weight_norm_interface",
    # Sum, difference, square, sum. Maximum, difference, exp, sum. Square, sum, scale, weight.
    4: """var std var_mean std_mean logsumexp _fused_rms_norm rms_norm smooth_l1_loss huber_loss kl_div
        _softmax_backward_data _log_softmax_backward_data""",
    # Maximum, difference, exp, sum, quotient.
    5: "softmax _softmax _safe_softmax log_softmax _log_softmax _masked_softmax",
    6: "binary_cross_entropy binary_cross_entropy_with_logits glu_backward",
    # Sum, difference, square, sum, scale, weight, bias.
    7: """native_layer_norm layer_norm native_group_norm group_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_functional _batch_norm_with_update _batch_norm_with_update_functional
        cudnn_batch_norm upsample_bilinear2d_backward""",
    # The gradient of a normalisation counts twice its forward pass.
    8: "_fused_rms_norm_backward",
    14: """native_layer_norm_backward native_group_norm_backward native_batch_norm_backward
        batch_norm_backward cudnn_batch_norm_backward""",
}


def _an_input_element(steps: int) -> Formula:
    def count(use: OpUse) -> int:
        data = next(filter(is_floating, use.inputs), None)
        return 0 if data is None else steps * numel(data) * (2 if is_complex(data) else 1)

    return count


for _steps, _names in STEPS.items():
    formula(OpFamily.REDUCTION, *_names.split())(_an_input_element(_steps))


@formula(OpFamily.REDUCTION, "scatter_add", "scatter_reduce", "index_add", "index_reduce")
def _accumulate(use: OpUse) -> int:
    """Count one FLOP for each added element; the source is the last input."""
    source = use.inputs[-1]
    return numel(source) if is_floating(source) else 0


@formula(
    OpFamily.REDUCTION, "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"
)
@formula(OpFamily.REDUCTION, "max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_max_pool2d")
def _pool(use: OpUse) -> int:
    """Count one FLOP for each element of a window and each element of the result."""
    rank = int(next(part for part in use.op.split("pool")[1] if part.isdigit()))
    sizes = use.scalars["kernel_size"]
    window = prod(sizes) if len(sizes) == rank else sizes[0] ** rank
    return numel(use.outputs[0]) * window if on_floats(use) else 0


@formula(OpFamily.REDUCTION, "_cdist_forward", "cdist")
def _cdist(use: OpUse) -> int:
    """Count difference, power and sum for every pair of rows and every column."""
    rows, others = use.inputs[:2]
    return 3 * numel(rows) * others.shape[-2]


@formula(OpFamily.REDUCTION, "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(use: OpUse) -> int:
    """Count every looked-up row once, as it is added once."""
    table, indices = use.inputs[:2]
    return numel(indices) * table.shape[-1]
