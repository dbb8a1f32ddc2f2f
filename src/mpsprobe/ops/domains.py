"""Values that an op is defined for: indices in range, positive-definite matrices, probabilities, masks.

A replay with values outside an op's domain says nothing: a Cholesky factor of noise is NaN on every device.
Rules are by op and argument; everything else gets normal floats, small positive integers and fair coins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mpsprobe.ops.storage import Kept, overlaps
from mpsprobe.run import OpUse


def base_name(op: str) -> str:
    """`"cat"` of `"aten::cat.out"`."""
    return op.partition("::")[2].partition(".")[0]


def stem(op: str) -> str:
    """The base name without what marks a variant: `"_softmax"` -> `"softmax"`, `"sqrt_"` -> `"sqrt"`."""
    return base_name(op).strip("_")


@dataclass(frozen=True)
class Argument:
    """One tensor argument that waits for its values.

    Attributes:
        use: the op use.
        name: the schema's name of it.
        index: its place among the tensors.
        position: its place among those of the same name, for a list of tensors.
        kept: the tensor.
        others: all tensors of the use, by name (the first where a name is a list's).
        generator: where randomness comes from.
    """

    use: OpUse
    name: str
    index: int
    position: int
    kept: Kept
    others: dict[str, Kept]
    generator: torch.Generator

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.kept.meta.shape

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        return self.kept.flat.dtype

    def scalar(self, name: str, default: Any) -> Any:
        """Another argument, or the default that the schema states."""
        value = self.use.scalars.get(name, default)
        return default if value is None else value


Draw = Callable[[Argument], "torch.Tensor | None"]


def fill(use: OpUse, tensors: list[Kept], names: list[str], generator: torch.Generator) -> None:
    """Give every tensor of a use its values, in place."""
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
    flat.copy_(_default(argument, (flat.numel(),)))
    draw = _special(argument)
    if draw is None:
        return
    values = draw(argument)
    if values is None:
        return
    if values.shape == flat.shape and values.shape != argument.shape:
        flat.copy_(values)  # of the storage: the same for every element that shares it
    elif not overlaps(argument.kept.meta):
        argument.kept.view.copy_(values)
    else:
        _through_overlap(argument, values)


def _through_overlap(argument: Argument, values: torch.Tensor) -> None:
    """Write to an expanded tensor: one of the elements that share memory gives its value to all."""
    meta = argument.kept.meta
    shape = [1 if stride == 0 else size for size, stride in zip(meta.shape, meta.strides, strict=True)]
    view = argument.kept.flat.as_strided(shape, meta.strides, argument.kept.offset)
    one = values[tuple(slice(0, size) for size in shape)]
    if view.numel() <= argument.kept.flat.numel():
        view.copy_(one)


# ------------------------------------------------------------------------------------------------- plain values


def _default(argument: Argument, shape: tuple[int, ...]) -> torch.Tensor:
    return default_values(argument.dtype, shape, argument.generator)


def default_values(dtype: torch.dtype, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Normal floats, integers from 1 to 8 (nothing divides by zero), fair coins."""
    if dtype is torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if dtype.is_complex:
        return torch.complex(*(torch.randn(shape, generator=generator) for _ in range(2))).to(dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(1, 9, shape, generator=generator).to(dtype)


def _uniform(low: float, high: float) -> Draw:
    def draw(argument: Argument) -> torch.Tensor | None:
        if not argument.dtype.is_floating_point:
            return None
        span = torch.rand((argument.kept.flat.numel(),), generator=argument.generator)
        return low + (high - low) * span

    return draw


def _away_from_zero(argument: Argument) -> torch.Tensor | None:
    """A divisor: 0.5 to 2 of either sign."""
    if not argument.dtype.is_floating_point:
        return None
    size = (argument.kept.flat.numel(),)
    magnitude = 0.5 + 1.5 * torch.rand(size, generator=argument.generator)
    return torch.where(torch.rand(size, generator=argument.generator) < 0.5, -magnitude, magnitude)


def _distinct(argument: Argument) -> torch.Tensor | None:
    """No ties, as far as the dtype has values enough: which of two equal elements comes first is not defined."""
    count, dtype = argument.kept.flat.numel(), argument.dtype
    order = torch.randperm(count, generator=argument.generator)
    if dtype in (torch.float16, torch.bfloat16):
        # Neighbouring bit patterns are neighbouring numbers: 16 bits hold some 14,000 of moderate size.
        first = torch.tensor(2.0**-8 if dtype is torch.float16 else 2.0**-40, dtype=dtype).view(torch.int16)
        limit = 14_000
        return ((order % limit).to(torch.int16) + first).view(dtype)
    if dtype.is_floating_point:
        return (order.double() - count / 2) / max(count / 8, 1)
    if dtype is torch.bool:
        return None
    return order % min(torch.iinfo(dtype).max, 1 << 31)


def _scaled(argument: Argument) -> torch.Tensor | None:
    """A factor of a product, so that results are about 1: a lost bias is then as large as what it was added to."""
    if not argument.dtype.is_floating_point or len(argument.shape) < 2:
        return None
    summed: int = _SUMMED[stem(argument.use.op), argument.name](argument.shape)
    size = (argument.kept.flat.numel(),)
    return torch.randn(size, generator=argument.generator) / math.sqrt(max(summed, 1))


_Shape = tuple[int, ...]


def _all_but_first(shape: _Shape) -> int:
    return math.prod(shape[1:])


#: (op, argument) -> how many products a result adds up, from that argument's shape.
_SUMMED: dict[tuple[str, str], Callable[[_Shape], int]] = {
    ("linear", "weight"): lambda shape: shape[-1],
    ("mm", "mat2"): lambda shape: shape[-2],
    ("bmm", "mat2"): lambda shape: shape[-2],
    ("matmul", "other"): lambda shape: shape[-2],
    ("addmm", "mat2"): lambda shape: shape[-2],
    ("addmv", "mat"): lambda shape: shape[-1],
    ("mv", "self"): lambda shape: shape[-1],
    ("baddbmm", "batch2"): lambda shape: shape[-2],
    ("addbmm", "batch2"): lambda shape: shape[-2],
    **{
        (op, "weight"): _all_but_first
        for op in ("convolution", "mps_convolution", "conv1d", "conv2d", "conv3d", "thnn_conv2d", "slow_conv2d_forward")
    },
    **{(op, "weight"): _all_but_first for op in ("mps_convolution_transpose", "conv_transpose2d")},
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- matrices


def _square(argument: Argument) -> torch.Tensor | None:
    """Noise of the shape of square matrices, in float64."""
    shape = argument.shape
    if len(shape) < 2 or not argument.dtype.is_floating_point:
        return None
    return torch.randn(shape, generator=argument.generator, dtype=torch.float64)


def _positive_definite(argument: Argument) -> torch.Tensor | None:
    noise = _square(argument)
    if noise is None:
        return None
    size = noise.shape[-1]
    return noise @ noise.mT / size + torch.eye(size, dtype=torch.float64)


def _cholesky_factor(argument: Argument) -> torch.Tensor | None:
    matrix = _positive_definite(argument)
    if matrix is None:
        return None
    factor: torch.Tensor = torch.linalg.cholesky(matrix)
    return factor.mT if argument.scalar("upper", False) else factor


def _well_conditioned(argument: Argument) -> torch.Tensor | None:
    noise = _square(argument)
    if noise is None or noise.shape[-1] != noise.shape[-2]:
        return None
    size = noise.shape[-1]
    return noise / math.sqrt(size) / 2 + 2 * torch.eye(size, dtype=torch.float64)


def _triangular(argument: Argument) -> torch.Tensor | None:
    matrix = _well_conditioned(argument)
    if matrix is None:
        return None
    return matrix.triu() if argument.scalar("upper", argument.use.op != "aten::lu_solve") else matrix.tril()


def _symmetric(argument: Argument) -> torch.Tensor | None:
    noise = _square(argument)
    return None if noise is None else (noise + noise.mT) / 2


# ----------------------------------------------------------------------------------------------------- indices


def _below(limit: int, argument: Argument) -> torch.Tensor | None:
    """Any indices into `limit` places."""
    if argument.dtype.is_floating_point or argument.dtype is torch.bool:
        return None
    size = (argument.kept.flat.numel(),)
    return torch.randint(0, max(limit, 1), size, generator=argument.generator)


def _into(holder: str, dim: str | int) -> Draw:
    """Indices into one dimension of the argument `holder`; `dim` is that dimension or the argument that says so."""

    def draw(argument: Argument) -> torch.Tensor | None:
        shape = argument.others[holder].meta.shape if holder in argument.others else ()
        at = argument.scalar(dim, 0) if isinstance(dim, str) else dim
        return _below(shape[at] if shape else 1, argument)

    return draw


def _places(argument: Argument) -> torch.Tensor | None:
    """For scatter and its like: no place is written twice, since which of two writers wins is not defined."""
    holder = argument.others.get("self")
    if holder is None or not argument.shape or not holder.meta.shape:
        return _below(1, argument)
    dim = argument.scalar("dim", 0)
    limit, count = holder.meta.shape[dim], argument.shape[dim]
    if count > limit or math.prod(argument.shape) > 1 << 22:
        return _below(limit, argument)
    shape = list(argument.shape)
    shape[dim] = limit
    order = torch.rand(shape, generator=argument.generator).argsort(dim)
    return order.narrow(dim, 0, count)


def _unique_places(argument: Argument) -> torch.Tensor | None:
    """The same for index_copy and index_fill, whose index has one dimension."""
    holder = argument.others.get("self")
    limit = holder.meta.shape[argument.scalar("dim", 0)] if holder is not None and holder.meta.shape else 1
    count = math.prod(argument.shape)
    if count > limit:
        return _below(limit, argument)
    return torch.randperm(limit, generator=argument.generator)[:count].reshape(argument.shape)


def _vocabulary(argument: Argument) -> torch.Tensor | None:
    """Indices of an embedding."""
    weight = argument.others.get("weight")
    return _below(weight.meta.shape[0] if weight else argument.scalar("num_weights", 1), argument)


def _classes(argument: Argument) -> torch.Tensor | None:
    """Targets of a loss: the classes are the second dimension of the input, or its only one."""
    shape = argument.others["self"].meta.shape
    if argument.dtype.is_floating_point:
        return None
    return _below(shape[1] if len(shape) > 1 else shape[0], argument)


def _advanced(argument: Argument) -> torch.Tensor | None:
    """An entry of the `indices` of `index` and `index_put`: an integer tensor, or a mask.

    A mask has as many true elements as were recorded: the result (or the values put) tells how many.
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
    return _below(limit, argument)


def _recorded_trues(argument: Argument, dim: int) -> int | None:
    values = argument.others.get("values")
    shape = values.meta.shape if values is not None else next((t.shape for t in argument.use.outputs), ())
    own = argument.others["self"].meta.shape
    if values is not None:
        # values may be broadcast: then any number of true elements will do
        rank = len(own) - len(argument.shape) + 1
        return shape[dim] if len(shape) == rank and shape[dim] != 1 else None
    return shape[dim] if dim < len(shape) else None


def _mask(argument: Argument, trues: int | None) -> torch.Tensor | None:
    """A mask with that many true elements, at random places; a fair coin when the number is not known."""
    count = math.prod(argument.shape)
    if trues is None or not 0 <= trues <= count:
        return None
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=argument.generator)[:trues]] = True
    return chosen.reshape(argument.shape).to(argument.dtype)


def _mask_of_source(argument: Argument) -> torch.Tensor | None:
    """masked_scatter: no more true elements than the source has."""
    source = argument.others.get("source")
    available = math.prod(source.meta.shape) if source is not None else 0
    own = argument.kept.flat.numel()
    each = max(1, math.prod(argument.others["self"].meta.shape) // max(own, 1))
    chosen = torch.zeros(own, dtype=torch.bool)
    chosen[torch.randperm(own, generator=argument.generator)[: min(available // each, own)]] = True
    return chosen


def _mask_of_result(argument: Argument) -> torch.Tensor | None:
    """For nonzero and masked_select: as many as came out."""
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    if argument.dtype is torch.bool:
        return _mask(argument, came)
    chosen = _mask(argument, came)
    return None if chosen is None else chosen * _default(argument, argument.shape)


def _repeats(argument: Argument) -> torch.Tensor | None:
    """repeat_interleave: repeats that add up to what came out."""
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    count = math.prod(argument.shape)
    if came is None or not count:
        return None
    each = torch.full((count,), came // count)
    each[: came % count] += 1
    return each.reshape(argument.shape)


def _sorted(argument: Argument) -> torch.Tensor | None:
    return _default(argument, argument.shape).sort(-1).values


# ------------------------------------------------------------------------------------------------------- rules

_POSITIVE = _uniform(0.1, 2.0)
_PROBABILITY = _uniform(0.05, 0.95)
_INSIDE = _uniform(-0.95, 0.95)

#: (op, argument) -> how its values are drawn. An op stands without the underscores that mark a variant.
_RULES: dict[tuple[str, str], Draw] = {
    **{(op, "self"): _POSITIVE for op in ("log", "log2", "log10", "sqrt", "rsqrt", "lgamma", "digamma", "xlogy")},
    **{(op, "self"): _INSIDE for op in ("acos", "asin", "atanh", "erfinv", "log1p", "tan", "special_erfinv")},
    **{(op, "self"): _PROBABILITY for op in ("logit", "bernoulli", "binary_cross_entropy", "special_ndtri")},
    ("acosh", "self"): _uniform(1.1, 3.0),
    ("reciprocal", "self"): _away_from_zero,
    ("multinomial", "self"): _PROBABILITY,
    ("binary_cross_entropy", "target"): _PROBABILITY,
    ("normal", "std"): _POSITIVE,
    ("xlogy", "other"): _POSITIVE,
    **{(op, "other"): _away_from_zero for op in ("div", "floor_divide", "remainder", "fmod", "true_divide")},
    **{(op, "tensor2"): _away_from_zero for op in ("addcdiv",)},
    ("pow", "self"): _POSITIVE,
    **{
        (op, "self"): _distinct
        for op in ("sort", "argsort", "topk", "argmax", "argmin", "max", "min", "median", "nanmedian", "kthvalue",
                   "mode", "cummax", "cummin", "aminmax", "unique2", "unique_dim", "max_pool2d_with_indices",
                   "max_pool3d_with_indices", "adaptive_max_pool2d", "max_pool2d")
    },
    **dict.fromkeys(_SUMMED, _scaled),
    **{(op, name): _POSITIVE
       for op in ("native_batch_norm", "batch_norm", "cudnn_batch_norm", "native_batch_norm_legit",
                  "native_batch_norm_legit_no_training", "batch_norm_with_update", "native_batch_norm_backward",
                  "native_layer_norm_backward", "native_group_norm_backward", "batch_norm_elemt")
       for name in ("running_var", "var", "invstd", "rstd", "save_invstd")},
    ("linalg_cholesky_ex", "self"): _positive_definite,
    ("linalg_cholesky", "self"): _positive_definite,
    ("cholesky", "self"): _positive_definite,
    ("cholesky_solve", "input2"): _cholesky_factor,
    ("cholesky_solve_helper", "A"): _cholesky_factor,
    ("cholesky_inverse", "self"): _cholesky_factor,
    ("linalg_solve_triangular", "self"): _triangular,
    ("triangular_solve", "A"): _triangular,
    **{(op, name): _well_conditioned
       for op in ("linalg_solve_ex", "linalg_solve", "linalg_inv_ex", "linalg_inv", "inverse", "linalg_lu_factor",
                  "linalg_lu_factor_ex", "linalg_lu", "linalg_det", "linalg_slogdet", "det", "linalg_matrix_exp")
       for name in ("A", "self")},
    **{(op, "A"): _symmetric for op in ("linalg_eigh", "linalg_eigvalsh", "linalg_ldl_factor_ex")},
    ("linalg_check_errors", "info"): lambda argument: torch.zeros(argument.kept.flat.numel()),
    ("index_select", "index"): _into("self", "dim"),
    ("gather", "index"): _into("self", "dim"),
    ("index_add", "index"): _into("self", "dim"),
    ("scatter_add", "index"): _into("self", "dim"),
    ("scatter", "index"): _places,
    ("scatter_reduce", "index"): _into("self", "dim"),
    ("index_copy", "index"): _unique_places,
    ("index_fill", "index"): _unique_places,
    ("take", "index"): lambda argument: _below(math.prod(argument.others["self"].meta.shape), argument),
    ("embedding", "indices"): _vocabulary,
    ("embedding_dense_backward", "indices"): _vocabulary,
    ("embedding_bag", "indices"): _vocabulary,
    ("embedding_bag_forward_only", "indices"): _vocabulary,
    **{(op, "target"): _classes
       for op in ("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss_nd", "nll_loss2d",
                  "nll_loss_backward")},
    **{(op, "indices"): _advanced for op in ("index", "unsafe_index", "index_put", "index_put_impl",
                                                   "unsafe_index_put")},
    ("masked_scatter", "mask"): _mask_of_source,
    ("masked_select", "mask"): _mask_of_result,
    ("nonzero", "self"): _mask_of_result,
    ("repeat_interleave", "repeats"): _repeats,
    ("searchsorted", "sorted_sequence"): _sorted,
    ("bucketize", "boundaries"): _sorted,
    ("grid_sampler_2d", "grid"): _INSIDE,
    ("grid_sampler_3d", "grid"): _INSIDE,
}  # fmt: skip


def _special(argument: Argument) -> Draw | None:
    return _RULES.get((stem(argument.use.op), argument.name))
