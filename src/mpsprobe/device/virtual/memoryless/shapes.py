"""Compute results of ops on memoryless tensors: shapes, strides and dtypes from meta kernels, cached by signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual.kernels import Kernel
from mpsprobe.device.virtual.rules import computed
from mpsprobe.device.virtual.schema import Op

_META = torch.device("meta")
#: The greatest number of cached signatures. A decode step of a model adds some hundred.
_LIMIT = 100_000


class ResultShape:
    """The shape, strides and dtype of one result tensor."""

    __slots__ = ("dtype", "numel", "shape", "strides")

    def __init__(self, tensor: Tensor) -> None:
        self.shape = tuple(tensor.shape)
        self.strides = tensor.stride()
        self.dtype = tensor.dtype
        self.numel = tensor.numel()


class Shapes:
    """Compute the shapes of a call's results, without values."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def of(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[int, ResultShape]]:
        """Return the shapes of a call's results and of the arguments that it resizes.

        Returns:
            The results with each tensor as a `ResultShape` and Python values as they are (several results are in a
            list), and the new shape of each written argument whose shape changes, by its index in `op.writes`.
        """
        key: Any = None
        found = None
        try:
            key = (op, tuple([_key(a) for a in args]), tuple([(n, _key(v)) for n, v in kwargs.items()]))
            found = self._known.get(key)
        except TypeError:  # an unhashable argument
            pass
        if found is None:
            found = self._compute(op, args, kwargs)
            if key is not None:
                if len(self._known) >= _LIMIT:
                    self._known.clear()
                self._known[key] = found
        return found

    @staticmethod
    def _compute(op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[int, ResultShape]]:
        meta_args = [_meta(a) for a in args]
        meta_kwargs = {name: _meta(value) for name, value in kwargs.items()}
        call: Kernel = _SHAPES.get(op.name) or computed.COMPUTED_BY.get(op.name) or op.call
        if any(isinstance(meta_args[k], (int, float, complex)) for k in op.tensors if k < len(meta_args)):
            call = op.overload.overloadpacket
        result = call(*meta_args, **meta_kwargs)
        changed = {}
        for index, (position, name) in enumerate(op.writes):
            before = op.argument(position, name, args, kwargs)
            after = op.argument(position, name, meta_args, meta_kwargs)
            if isinstance(after, Tensor) and after.shape != before.shape:
                changed[index] = ResultShape(after)
        return _spec(result), changed


def _key(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([_key(one) for one in value])
    return value.__class__, value


def _meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)([_meta(one) for one in value])
    if isinstance(value, torch.Generator):
        return None  # no numbers are drawn, and the decompositions behind some meta kernels refuse one
    return _META if isinstance(value, torch.device) else value


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ResultShape(value)
    if isinstance(value, (list, tuple)):
        return [_spec(one) for one in value]
    return value


# --------------------------------------------------------- shapes of ops that have no meta kernel to be asked


def _attention(q: Tensor, k: Tensor, v: Tensor, *_rest: Any, **_options: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(*q.shape[:-1], k.shape[-2])


def _lstm(
    x: Tensor,
    hx: Sequence[Tensor],
    _params: Any,
    _biases: bool,
    _layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    _batch_first: bool,
) -> tuple[Tensor, ...]:
    width = hx[0].shape[-1] * (2 if bidirectional else 1)
    nothing = x.new_empty(0)
    state = torch.empty_like(hx[0]), torch.empty_like(hx[1])
    return (x.new_empty(*x.shape[:2], width), *state, nothing, nothing, nothing)


def _lstm_backward(*args: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x, hx, params = args[5], args[7], args[8]
    like = torch.empty_like
    return like(x), [like(one) for one in hx], [like(one) for one in params]


def _ctc_loss_backward(_grad: Tensor, log_probabilities: Tensor, *_rest: Any) -> Tensor:
    return torch.empty_like(log_probabilities)


_SHAPES: dict[str, Kernel] = {
    "_ctc_loss_backward": _ctc_loss_backward,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "_lstm_mps": _lstm,
    "lstm_mps_backward": _lstm_backward,
}
