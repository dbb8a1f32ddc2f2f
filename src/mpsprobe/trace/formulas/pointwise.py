"""FLOPs of ops that compute each element of the result from others: a few of them, or all that a reduction reads."""

from __future__ import annotations

from math import prod

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.formulas.registry import Formula, OpFamily, formula, is_complex, is_floating, numel

#: Ops with one FLOP for each element of the result.
ONE = """
    abs acos acosh add angle asin asinh atan atan2 atanh ceil celu clamp clamp_max clamp_min copysign cos cosh
    deg2rad digamma div elu elu_backward eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmax fmin fmod
    frac frexp ge gelu gelu_backward gt hardshrink hardshrink_backward hardsigmoid hardsigmoid_backward
    hardswish hardswish_backward hardtanh hardtanh_backward heaviside hypot i0 igamma igammac isinf isnan
    isneginf isposinf ldexp le leaky_relu leaky_relu_backward lgamma log log10 log1p log2 log_sigmoid
    log_sigmoid_backward log_sigmoid_forward logaddexp logaddexp2 logit logit_backward lt maximum minimum
    mish mish_backward mul mvlgamma nan_to_num ne neg nextafter polar polygamma pow prelu _prelu_kernel
    rad2deg reciprocal relu relu6 remainder round rrelu_with_noise rrelu_with_noise_backward rsqrt rsub selu
    sgn sigmoid sign signbit silu silu_backward sin sinc sinh softplus softplus_backward softshrink
    softshrink_backward special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0
    special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u
    special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_entr special_erfcx
    special_hermite_polynomial_h special_hermite_polynomial_he special_i0e special_i1 special_i1e
    special_laguerre_polynomial_l special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri
    special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1
    special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
    special_spherical_bessel_j0 special_xlog1py special_zeta sqrt square sub tan tanh threshold
    threshold_backward trunc xlogy isin cumsum cumprod _cummax_helper _cummin_helper cummax cummin
    logcumsumexp _logcumsumexp native_dropout_backward _masked_scale _add_relu
""".split()  # noqa: SIM905 (a list literal has a line a name)

#: Ops without FLOPs: bits, booleans and integers, copies, fills, random numbers, indices, order.
NONE = """
    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor gcd lcm logical_and logical_not
    logical_or logical_xor conj_physical _conj_physical clone copy _to_copy to contiguous where masked_fill
    fill zero zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full scalar_tensor
    arange range linspace logspace eye empty empty_like empty_strided empty_permuted new_empty
    new_empty_strided rand rand_like randn randn_like randint randint_like randperm uniform normal
    normal_functional random bernoulli exponential geometric cauchy log_normal multinomial poisson tril triu
    tril_indices triu_indices cat stack _stack repeat repeat_interleave tile flip roll rot90 constant_pad_nd
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    pixel_shuffle pixel_unshuffle channel_shuffle im2col unfold_backward slice_backward select_backward
    diagonal_backward slice_scatter select_scatter diagonal_scatter as_strided_scatter diag_embed block_diag
    index index_select gather take embedding _unsafe_index _unsafe_masked_index masked_select masked_scatter
    masked_scatter_backward scatter index_fill index_copy put index_put _index_put_impl _unsafe_index_put
    nonzero nonzero_static argwhere argsort sort topk kthvalue median nanmedian mode unique_dim
    unique_consecutive unique_dim_consecutive _unique _unique2 searchsorted bucketize bincount histc all any
    is_nonzero equal count_nonzero _local_scalar_dense item one_hot complex real imag upsample_nearest1d
    upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d max_unpool2d max_unpool3d resize _pin_memory _assert_async
    _functional_assert_async _assert_tensor_metadata _is_all_true _is_any_true _resize_output
    lift_fresh_copy expand_copy permute_copy select_copy slice_copy split_copy split_with_sizes_copy
    squeeze_copy t_copy transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy alias_copy
    detach_copy diagonal_copy as_strided_copy view_as_real_copy view_as_complex_copy _reshape_copy
    _fill_mem_eff_dropout_mask _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu record_stream
    bartlett_window blackman_window hamming_window hann_window kaiser_window fft_fftfreq fft_rfftfreq
""".split()  # noqa: SIM905 (a list literal has a line a name)

#: Ops with several FLOPs for each element of the result, with the formula beside each.
SEVERAL = {
    "addcmul": 3,  # self + value * a * b
    "addcdiv": 3,
    "lerp": 3,  # a + w * (b - a)
    "sigmoid_backward": 3,  # g * y * (1 - y)
    "tanh_backward": 3,
    "glu": 2,  # a * sigmoid(b)
    "native_dropout": 2,  # mask and scale
    "dropout": 2,
    "linalg_cross": 3,
    "upsample_linear1d": 3,  # 2 taps: 2 products, 1 sum
    "upsample_bilinear2d": 7,
    "_upsample_bilinear2d_aa": 7,
    "upsample_trilinear3d": 15,
    "upsample_bicubic2d": 31,
    "_upsample_bicubic2d_aa": 31,
    "grid_sampler_2d": 7,  # bilinear
    "grid_sampler_3d": 15,
    "affine_grid_generator": 8,
}

#: FLOPs of `_foreach_*` ops for each element of the first list.
FOREACH = {
    **dict.fromkeys(
        ("abs", "add", "sub", "mul", "div", "exp", "log", "neg", "reciprocal", "sqrt", "rsqrt"), 1
    ),
    **dict.fromkeys(("maximum", "minimum", "clamp_max", "clamp_min", "pow"), 1),
    **dict.fromkeys(("addcmul", "addcdiv", "lerp"), 3),
    **dict.fromkeys(("zero", "copy"), 0),
    "norm": 2,
}

_COMPLEX_PRODUCTS = {"mul", "div", "reciprocal", "addcmul", "addcdiv"}


def result_of(use: OpUse) -> TensorMeta | None:
    """Return the tensor that an op writes: its first result, or else its first input; None when it has neither."""
    written = use.outputs or use.inputs
    return written[0] if written else None


def _nothing(_: OpUse) -> int:
    return 0


def on_floats(use: OpUse) -> bool:
    """Return whether any input or result of an op use is floating-point or complex."""
    return any(is_floating(tensor) for tensor in (*use.inputs, *use.outputs))


def _an_element(cost: int, name: str) -> Formula:
    """Return a formula of `cost` FLOPs for each element of the result of the op `name`, and of none for integers.

    For complex numbers a product or quotient counts six times (4 products, 2 sums), any other op twice.
    """

    def count(use: OpUse) -> int:
        result = result_of(use)
        if result is None or not on_floats(use):
            return 0
        parts = 1
        if any(map(is_complex, use.inputs)):
            parts = 6 if name in _COMPLEX_PRODUCTS else 2
        return cost * parts * numel(result)

    return count


def _each_of_a_list(cost: int) -> Formula:
    def count(use: OpUse) -> int:
        first = use.inputs[: len(use.scalars.get("self", use.inputs))]
        return cost * sum(numel(tensor) for tensor in first if is_floating(tensor))

    return count


for _name in ONE:
    formula(OpFamily.POINTWISE, _name)(_an_element(1, _name))
for _name in NONE:
    formula(OpFamily.POINTWISE, _name)(_nothing)
for _name, _cost in SEVERAL.items():
    formula(OpFamily.POINTWISE, _name)(_an_element(_cost, _name))
for _name, _cost in FOREACH.items():
    formula(OpFamily.POINTWISE, f"_foreach_{_name}")(_each_of_a_list(_cost))


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
    """Count one FLOP for each element of the window of each element of the result."""
    rank = int(next(part for part in use.op.split("pool")[1] if part.isdigit()))
    sizes = use.scalars["kernel_size"]
    window = prod(sizes) if len(sizes) == rank else sizes[0] ** rank
    return numel(use.outputs[0]) * window if on_floats(use) else 0


@formula(OpFamily.REDUCTION, "_cdist_forward", "cdist")
def _cdist(use: OpUse) -> int:
    """Count 3 FLOPs (difference, power, sum) for every column of every pair of rows."""
    rows, others = use.inputs[:2]
    return 3 * numel(rows) * others.shape[-2]


@formula(OpFamily.REDUCTION, "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(use: OpUse) -> int:
    """Count one FLOP for each element of every looked-up row, which is added once."""
    table, indices = use.inputs[:2]
    return numel(indices) * table.shape[-1]
