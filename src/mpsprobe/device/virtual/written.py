"""Write results into given tensors: `out=` arguments and `resize_`, over memory that other tensors may share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.schema import Op, OpCall

_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_set_storage = torch.ops.aten.set_.source_Storage_storage_offset
RESIZE = schema.facts(torch.ops.aten.resize_.default)


def fresh_outputs(call: OpCall, *, only_empty: bool) -> set[tuple[int, str]]:
    """Replace outputs on the host by empty tensors with their own memory; return which were replaced."""
    fresh = set()
    for position, name in call.op.writes:
        value = call.host_argument(position, name)
        if name == "self" or not isinstance(value, Tensor) or (only_empty and value.numel()):
            continue
        empty = torch.empty(0, dtype=value.dtype, device=value.device)
        fresh.add((position, name))
        if position < len(call.host_args):
            call.host_args[position] = empty
        else:
            call.host_kwargs[name] = empty
    return fresh


class Outputs:
    """Put results of the host into tensors of the device.

    Args:
        host: A function that returns the host's view of a device tensor.
        wrap: A function that makes a device tensor of a result of an op, counted in the modelled memory.
        host_device: The device of results.
    """

    def __init__(
        self, host: Callable[[Tensor], Tensor], wrap: Callable[[Op, Any], Any], host_device: torch.device
    ) -> None:
        self._host = host
        self._wrap = wrap
        self._host_device = host_device

    def write_back(self, op: Op, old: Tensor, new: Tensor) -> None:
        """Put the result of an op into its `out=` argument, as resize_output of aten/native/Resize.cpp does.

        The storage stays while the result fits into it, so that the tensors that share it see the result.
        """
        if not new.numel() and old.shape == new.shape:
            return
        end = int(old.storage_offset()) + _extent(new)
        if not old.untyped_storage().nbytes():
            replace(old, self._wrap(op, new))
            return
        if end * old.element_size() > old.untyped_storage().nbytes():
            self.grow(old, end, new)
        if old.shape != new.shape:
            set_memory(old, old, old.storage_offset(), new)
        if new.numel():
            self._host(old).copy_(new)

    def grow(self, tensor: Tensor, elements: int, written: Tensor | None = None) -> None:
        """Give a tensor a storage of at least `elements` elements that begins with its present contents.

        On a Mac the storage itself grows, for all tensors that share it. Here the others keep the old one, into
        which what is `written` next is also copied, as far as it fits.
        """
        held = tensor.untyped_storage().nbytes() // tensor.element_size()
        new = torch.empty(elements, dtype=tensor.dtype, device=self._host_device)
        if held:
            whole = self._host(tensor.detach().as_strided((held,), (1,), 0))
            new[:held].copy_(whole)
            if written is not None and written.is_contiguous():
                start = tensor.storage_offset()
                whole[start:].copy_(written.reshape(-1)[: held - start])
        set_memory(tensor, self._wrap(RESIZE, new), tensor.storage_offset(), tensor)


def replace(tensor: Tensor, new: Tensor) -> None:
    """Give a tensor the memory, shape and strides of another."""
    set_memory(tensor, new, new.storage_offset(), new)


def set_memory(tensor: Tensor, memory: Tensor, offset: int | torch.SymInt, form: Tensor) -> None:
    """Give a tensor the storage of `memory` at an offset, with the shape and strides of `form`."""
    # not set_.source_Tensor, which goes through the dispatcher again, so that the observer would receive it
    storage = memory.untyped_storage()
    _set_storage.redispatch(_CPU_KEYS, tensor, storage, offset, list(form.shape), list(form.stride()))


def _extent(tensor: Tensor) -> int:
    """Return the number of elements of memory that a tensor spans."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
