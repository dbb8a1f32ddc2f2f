"""Draw values for which an op is defined: indices in range, positive-definite matrices, probabilities, masks.

A replay with values outside an op's domain shows nothing: a Cholesky factor of noise is NaN on every device. The
rules are by op and argument; all other arguments get normal floats, small positive integers and random booleans, and
so do those for which a rule's function returns None.
"""

from __future__ import annotations

import math

import torch

from mpsprobe.ops import draws
from mpsprobe.ops.draws import Argument, Draw, ReplayTensor, base_name, overlaps, stem
from mpsprobe.run import OpUse


def below(limit: int, argument: Argument) -> torch.Tensor | None:
    """Draw indices from 0 up to `limit`, exclusive; None for floats and booleans, which are no indices."""
    if argument.dtype.is_floating_point or argument.dtype is torch.bool:
        return None
    size = (argument.kept.flat.numel(),)
    return torch.randint(0, max(limit, 1), size, generator=argument.generator)


def into(holder: str, dim: str | int) -> Draw:
    """Return a function that draws indices into a dimension of the argument `holder`; `dim` may name an argument."""

    def draw(argument: Argument) -> torch.Tensor | None:
        shape = argument.others[holder].meta.shape if holder in argument.others else ()
        at = argument.scalar(dim, 0) if isinstance(dim, str) else dim
        return below(shape[at] if shape else 1, argument)

    return draw


def places(argument: Argument) -> torch.Tensor | None:
    """Draw indices for scatter that write no place twice, because the result would be undefined.

    Where there are more indices than places, or more than four million, places may repeat.
    """
    holder = argument.others.get("self")
    if holder is None or not argument.shape or not holder.meta.shape:
        return below(1, argument)
    dim = argument.scalar("dim", 0)
    limit, count = holder.meta.shape[dim], argument.shape[dim]
    if count > limit or math.prod(argument.shape) > 1 << 22:
        return below(limit, argument)
    shape = list(argument.shape)
    shape[dim] = limit
    order = torch.rand(shape, generator=argument.generator).argsort(dim)
    return order.narrow(dim, 0, count)


def unique_places(argument: Argument) -> torch.Tensor | None:
    """Draw one-dimensional indices for index_copy and index_fill, without repeats unless they outnumber the places."""
    holder = argument.others.get("self")
    limit = holder.meta.shape[argument.scalar("dim", 0)] if holder is not None and holder.meta.shape else 1
    count = math.prod(argument.shape)
    if count > limit:
        return below(limit, argument)
    return torch.randperm(limit, generator=argument.generator)[:count].reshape(argument.shape)


def vocabulary(argument: Argument) -> torch.Tensor | None:
    """Draw indices of rows of the embedding's weight, whose number in a backward op is the argument `num_weights`."""
    weight = argument.others.get("weight")
    return below(weight.meta.shape[0] if weight else argument.scalar("num_weights", 1), argument)


def classes(argument: Argument) -> torch.Tensor | None:
    """Draw class indices as targets of a loss; the classes are the input's second dimension, or its only one.

    The result is None for floating-point targets.
    """
    shape = argument.others["self"].meta.shape
    if argument.dtype.is_floating_point:
        return None
    return below(shape[1] if len(shape) > 1 else shape[0], argument)


def advanced(argument: Argument) -> torch.Tensor | None:
    """Draw an entry of the `indices` of `index` and `index_put`: an integer tensor, or a mask.

    A mask has as many true elements as were recorded, a number that follows from the result (or the values to put).
    """
    own = argument.others["self"].meta.shape
    listed = argument.use.scalars.get("indices")
    entries = listed if isinstance(listed, list) else ["tensor"]
    dim, before = 0, iter(argument.use.inputs[argument.index - argument.position : argument.index])
    for entry in entries:
        if entry != "tensor":
            dim += 1
            continue
        earlier = next(before, None)
        if earlier is None:
            break
        dim += len(earlier.shape) if earlier.dtype in ("bool", "uint8") else 1
    if argument.dtype in (torch.bool, torch.uint8):
        return _mask(argument, _recorded_trues(argument, dim))
    limit = own[dim] if dim < len(own) else 1
    count = math.prod(argument.shape)
    if base_name(argument.use.op).startswith(("index_put", "_index_put")) and count <= limit:
        return torch.randperm(limit, generator=argument.generator)[:count].reshape(argument.shape)
    return below(limit, argument)


def _recorded_trues(argument: Argument, dim: int) -> int | None:
    values = argument.others.get("values")
    shape = values.meta.shape if values is not None else next((t.shape for t in argument.use.outputs), ())
    own = argument.others["self"].meta.shape
    if values is not None:
        # values may be broadcast, in which case any number of true elements is valid
        rank = len(own) - len(argument.shape) + 1
        return shape[dim] if len(shape) == rank and shape[dim] != 1 else None
    return shape[dim] if dim < len(shape) else None


def _mask(argument: Argument, trues: int | None) -> torch.Tensor | None:
    """Draw a mask with `trues` true elements in random places; None when the number is unknown or impossible."""
    count = math.prod(argument.shape)
    if trues is None or not 0 <= trues <= count:
        return None
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=argument.generator)[:trues]] = True
    return chosen.reshape(argument.shape).to(argument.dtype)


def mask_of_source(argument: Argument) -> torch.Tensor | None:
    """Draw a mask for masked_scatter with no more true elements than the source has."""
    source = argument.others.get("source")
    available = math.prod(source.meta.shape) if source is not None else 0
    own = argument.kept.flat.numel()
    each = max(1, math.prod(argument.others["self"].meta.shape) // max(own, 1))
    chosen = torch.zeros(own, dtype=torch.bool)
    chosen[torch.randperm(own, generator=argument.generator)[: min(available // each, own)]] = True
    return chosen


def mask_of_result(argument: Argument) -> torch.Tensor | None:
    """Draw a mask for nonzero and masked_select with as many true elements as the recorded result has rows.

    For `nonzero` of numbers the true elements get positive integers or normal floats, and the others 0.
    """
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    if argument.dtype is torch.bool:
        return _mask(argument, came)
    chosen = _mask(argument, came)
    return None if chosen is None else chosen * draws.plain(argument, argument.shape)


def repeats(argument: Argument) -> torch.Tensor | None:
    """Draw repeats for repeat_interleave that add up to the length of the recorded result; None when it is unknown."""
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    count = math.prod(argument.shape)
    if came is None or not count:
        return None
    each = torch.full((count,), came // count)
    each[: came % count] += 1
    return each.reshape(argument.shape)


__all__ = ["base_name", "fill", "stem"]


def fill(use: OpUse, tensors: list[ReplayTensor], names: list[str], generator: torch.Generator) -> None:
    """Give every tensor of an op use its values, in place."""
    others: dict[str, ReplayTensor] = {}
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
    """Write values to a tensor with overlapping memory; of an expanded dimension the first element counts."""
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
    ("index_select", "index"): into("self", "dim"),
    ("gather", "index"): into("self", "dim"),
    ("index_add", "index"): into("self", "dim"),
    ("scatter_add", "index"): into("self", "dim"),
    ("scatter", "index"): places,
    ("scatter_reduce", "index"): into("self", "dim"),
    ("index_copy", "index"): unique_places,
    ("index_fill", "index"): unique_places,
    ("take", "index"): lambda argument: below(math.prod(argument.others["self"].meta.shape), argument),
    ("embedding", "indices"): vocabulary,
    ("embedding_dense_backward", "indices"): vocabulary,
    ("embedding_bag", "indices"): vocabulary,
    ("embedding_bag_forward_only", "indices"): vocabulary,
    **{(op, "target"): classes
       for op in ("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss_nd", "nll_loss2d",
                  "nll_loss_backward")},
    **{(op, "indices"): advanced for op in ("index", "unsafe_index", "index_put", "index_put_impl",
                                                   "unsafe_index_put")},
    ("masked_scatter", "mask"): mask_of_source,
    ("masked_select", "mask"): mask_of_result,
    ("nonzero", "self"): mask_of_result,
    ("repeat_interleave", "repeats"): repeats,
    ("searchsorted", "sorted_sequence"): draws.ascending,
    ("bucketize", "boundaries"): draws.ascending,
    ("grid_sampler_2d", "grid"): _INSIDE,
    ("grid_sampler_3d", "grid"): _INSIDE,
}  # fmt: skip


def _special(argument: Argument) -> Draw | None:
    return _RULES.get((stem(argument.use.op), argument.name))
