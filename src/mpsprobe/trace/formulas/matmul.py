"""FLOPs of matrix products: a multiply-add counts as two, adding a bias is not counted.

This is the convention of `torch.utils.flop_counter`, with which the tests compare. A complex multiply-add counts as
four real ones; PyTorch's counter counts it as one.
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
    """Count a (batched) matrix-matrix product.

    With one batched operand, each row, column or inner index of the other belongs to one group (`_grouped_mm`), so
    the groups add nothing.
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
