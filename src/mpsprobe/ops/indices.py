"""Draw indices and masks: in range, and with as many true elements as were recorded."""

from __future__ import annotations

import math

import torch

from mpsprobe.ops import draws
from mpsprobe.ops.draws import Argument, Draw, base_name


def below(limit: int, argument: Argument) -> torch.Tensor | None:
    """Draw indices from 0 up to `limit`, exclusive."""
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
    """Draw indices for scatter and similar ops without writing a place twice, because the result is undefined then."""
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
    """Draw such indices for index_copy and index_fill, whose index has one dimension."""
    holder = argument.others.get("self")
    limit = holder.meta.shape[argument.scalar("dim", 0)] if holder is not None and holder.meta.shape else 1
    count = math.prod(argument.shape)
    if count > limit:
        return below(limit, argument)
    return torch.randperm(limit, generator=argument.generator)[:count].reshape(argument.shape)


def vocabulary(argument: Argument) -> torch.Tensor | None:
    """Draw indices into an embedding."""
    weight = argument.others.get("weight")
    return below(weight.meta.shape[0] if weight else argument.scalar("num_weights", 1), argument)


def classes(argument: Argument) -> torch.Tensor | None:
    """Draw targets of a loss; the classes are the second dimension of the input, or its only one."""
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
    """Draw a mask with that many true elements in random places; random booleans when the number is unknown."""
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
    """Draw a mask for nonzero and masked_select with as many true elements as the recorded result."""
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    if argument.dtype is torch.bool:
        return _mask(argument, came)
    chosen = _mask(argument, came)
    return None if chosen is None else chosen * draws.plain(argument, argument.shape)


def repeats(argument: Argument) -> torch.Tensor | None:
    """Draw repeats for repeat_interleave that add up to the size of the recorded result."""
    came = (
        argument.use.outputs[0].shape[0] if argument.use.outputs and argument.use.outputs[0].shape else None
    )
    count = math.prod(argument.shape)
    if came is None or not count:
        return None
    each = torch.full((count,), came // count)
    each[: came % count] += 1
    return each.reshape(argument.shape)
