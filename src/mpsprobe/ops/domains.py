"""Draw values for which an op is defined: indices in range, positive-definite matrices, probabilities, masks.

A replay with values outside an op's domain shows nothing: a Cholesky factor of noise is NaN on every device. The
rules are by op and argument; all other arguments get normal floats, small positive integers and random booleans.
"""

from __future__ import annotations

import math

import torch

from mpsprobe.ops import draws, indices
from mpsprobe.ops.draws import Argument, Draw, base_name, stem
from mpsprobe.ops.storage import Kept, overlaps
from mpsprobe.run import OpUse

__all__ = ["base_name", "fill", "stem"]


def fill(use: OpUse, tensors: list[Kept], names: list[str], generator: torch.Generator) -> None:
    """Give every tensor of an op use its values, in place."""
    others: dict[str, Kept] = {}
    for name, kept in zip(names, tensors, strict=True):
        others.setdefault(name, kept)
    for index, (name, kept) in enumerate(zip(names, tensors, strict=True)):
        position = names[:index].count(name)
        _fill(Argument(use, name, index, position, kept, others, generator))


def _fill(argument: Argument) -> None:
    flat = argument.kept.flat
    if flat.numel() == 0:
        return
    flat.copy_(draws.plain(argument, (flat.numel(),)))
    draw = _special(argument)
    if draw is None:
        return
    values = draw(argument)
    if values is None:
        return
    if values.shape == flat.shape and values.shape != argument.shape:
        flat.copy_(values)  # fills the storage, so that elements that share memory are equal
    elif not overlaps(argument.kept.meta):
        argument.kept.view.copy_(values)
    else:
        _through_overlap(argument, values)


def _through_overlap(argument: Argument, values: torch.Tensor) -> None:
    """Write values to an expanded tensor: one of the elements that share memory determines the value of all."""
    meta = argument.kept.meta
    shape = [1 if stride == 0 else size for size, stride in zip(meta.shape, meta.strides, strict=True)]
    view = argument.kept.flat.as_strided(shape, meta.strides, argument.kept.offset)
    one = values[tuple(slice(0, size) for size in shape)]
    if view.numel() <= argument.kept.flat.numel():
        view.copy_(one)


_POSITIVE = draws.uniform(0.1, 2.0)
_PROBABILITY = draws.uniform(0.05, 0.95)
_INSIDE = draws.uniform(-0.95, 0.95)

#: How values are drawn, by (op, argument). Ops are written without the underscores that mark a variant.
_RULES: dict[tuple[str, str], Draw] = {
    **{(op, "self"): _POSITIVE for op in ("log", "log2", "log10", "sqrt", "rsqrt", "lgamma", "digamma", "xlogy")},
    **{(op, "self"): _INSIDE for op in ("acos", "asin", "atanh", "erfinv", "log1p", "tan", "special_erfinv")},
    **{(op, "self"): _PROBABILITY for op in ("logit", "bernoulli", "binary_cross_entropy", "special_ndtri")},
    ("acosh", "self"): draws.uniform(1.1, 3.0),
    ("reciprocal", "self"): draws.away_from_zero,
    ("multinomial", "self"): _PROBABILITY,
    ("binary_cross_entropy", "target"): _PROBABILITY,
    ("normal", "std"): _POSITIVE,
    ("xlogy", "other"): _POSITIVE,
    **{(op, "other"): draws.away_from_zero for op in ("div", "floor_divide", "remainder", "fmod", "true_divide")},
    **{(op, "tensor2"): draws.away_from_zero for op in ("addcdiv",)},
    ("pow", "self"): _POSITIVE,
    **{
        (op, "self"): draws.distinct
        for op in ("sort", "argsort", "topk", "argmax", "argmin", "max", "min", "median", "nanmedian", "kthvalue",
                   "mode", "cummax", "cummin", "aminmax", "unique2", "unique_dim", "max_pool2d_with_indices",
                   "max_pool3d_with_indices", "adaptive_max_pool2d", "max_pool2d")
    },
    **dict.fromkeys(draws.SUMMED, draws.scaled),
    **{(op, name): _POSITIVE
       for op in ("native_batch_norm", "batch_norm", "cudnn_batch_norm", "native_batch_norm_legit",
                  "native_batch_norm_legit_no_training", "batch_norm_with_update", "native_batch_norm_backward",
                  "native_layer_norm_backward", "native_group_norm_backward", "batch_norm_elemt")
       for name in ("running_var", "var", "invstd", "rstd", "save_invstd")},
    ("linalg_cholesky_ex", "self"): draws.positive_definite,
    ("linalg_cholesky", "self"): draws.positive_definite,
    ("cholesky", "self"): draws.positive_definite,
    ("cholesky_solve", "input2"): draws.cholesky_factor,
    ("cholesky_solve_helper", "A"): draws.cholesky_factor,
    ("cholesky_inverse", "self"): draws.cholesky_factor,
    ("linalg_solve_triangular", "self"): draws.triangular,
    ("triangular_solve", "A"): draws.triangular,
    **{(op, name): draws.well_conditioned
       for op in ("linalg_solve_ex", "linalg_solve", "linalg_inv_ex", "linalg_inv", "inverse", "linalg_lu_factor",
                  "linalg_lu_factor_ex", "linalg_lu", "linalg_det", "linalg_slogdet", "det", "linalg_matrix_exp")
       for name in ("A", "self")},
    **{(op, "A"): draws.symmetric for op in ("linalg_eigh", "linalg_eigvalsh", "linalg_ldl_factor_ex")},
    ("linalg_check_errors", "info"): lambda argument: torch.zeros(argument.kept.flat.numel()),
    ("index_select", "index"): indices.into("self", "dim"),
    ("gather", "index"): indices.into("self", "dim"),
    ("index_add", "index"): indices.into("self", "dim"),
    ("scatter_add", "index"): indices.into("self", "dim"),
    ("scatter", "index"): indices.places,
    ("scatter_reduce", "index"): indices.into("self", "dim"),
    ("index_copy", "index"): indices.unique_places,
    ("index_fill", "index"): indices.unique_places,
    ("take", "index"): lambda argument: indices.below(math.prod(argument.others["self"].meta.shape), argument),
    ("embedding", "indices"): indices.vocabulary,
    ("embedding_dense_backward", "indices"): indices.vocabulary,
    ("embedding_bag", "indices"): indices.vocabulary,
    ("embedding_bag_forward_only", "indices"): indices.vocabulary,
    **{(op, "target"): indices.classes
       for op in ("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss_nd", "nll_loss2d",
                  "nll_loss_backward")},
    **{(op, "indices"): indices.advanced for op in ("index", "unsafe_index", "index_put", "index_put_impl",
                                                   "unsafe_index_put")},
    ("masked_scatter", "mask"): indices.mask_of_source,
    ("masked_select", "mask"): indices.mask_of_result,
    ("nonzero", "self"): indices.mask_of_result,
    ("repeat_interleave", "repeats"): indices.repeats,
    ("searchsorted", "sorted_sequence"): draws.ascending,
    ("bucketize", "boundaries"): draws.ascending,
    ("grid_sampler_2d", "grid"): _INSIDE,
    ("grid_sampler_3d", "grid"): _INSIDE,
}  # fmt: skip


def _special(argument: Argument) -> Draw | None:
    return _RULES.get((stem(argument.use.op), argument.name))
