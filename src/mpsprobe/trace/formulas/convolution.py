"""FLOPs of convolutions: a multiply-add counts as two, adding a bias is not counted.

The counts are those of `torch.utils.flop_counter`, except for the weight's gradient with groups, where PyTorch's
counter ignores the groups and so counts too much: each of the two gradients takes as many multiply-adds as the
forward pass, whatever the groups.
"""

from __future__ import annotations

from math import prod

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.formulas.registry import OpFamily, formula, is_complex, numel


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
    """Count the gradients of input and weight that the mask requests; the bias's sum is not counted."""
    grad, x, weight = use.inputs[:3] if "mps" not in use.op else (use.inputs[1], use.inputs[0], use.inputs[2])
    wanted = sum(bool(flag) for flag in use.scalars["output_mask"][:2])
    return wanted * multiply_adds(x, weight, grad, bool(use.scalars.get("transposed")))


@formula(OpFamily.CONVOLUTION, "conv_tbc")
def _time_first(use: OpUse) -> int:
    """Count a convolution with weight `[kernel, in, out]` on data `[time, batch, channel]`."""
    weight = use.inputs[1]
    return sum(2 * numel(out) * weight.shape[0] * weight.shape[1] for out in use.outputs)
