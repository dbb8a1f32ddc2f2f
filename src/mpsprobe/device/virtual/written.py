"""Write results into given tensors: `out=` arguments and `resize_`, over memory that other tensors may share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.schema import Op, OpCall

_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_set_storage = torch.ops.aten.set_.source_Storage_storage_offset
COPY = schema.facts(torch.ops.aten.copy_.default)
RESIZE = schema.facts(torch.ops.aten.resize_.default)


def fresh_outputs(call: OpCall, *, only_empty: bool) -> set[tuple[int, str]]:
    """Replace a call's host outputs by new tensors without elements, and return the (position, name) of each.

    Args:
        call: The call, whose host arguments are changed. An argument called `self` is never replaced.
        only_empty: Whether to replace only outputs that have no elements already.
    """
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


#: Ops whose kernel on a Mac does not look whether what it writes overlaps what it reads (operations/Indexing.mm).
_UNCHECKED = frozenset({"index_select", "masked_fill_", "masked_scatter_"})


def share_storages(call: OpCall, host: Callable[[Tensor], Tensor]) -> None:
    """Let host tensors share a storage where the device's tensors do, if the op writes into one of those.

    The host's tensors are made one by one, each with a storage of its own, and PyTorch's checks for overlap ("some
    elements of the input tensor and the written-to tensor refer to a single memory location") compare storages.

    Args:
        call: The call, whose host arguments are replaced.
        host: A function that returns the host's view of a device tensor.
    """
    if call.op.base in _UNCHECKED:
        return
    if call.op is COPY and _storage_of(call.args[0]) != _storage_of(call.args[1]):
        return
    places: list[tuple[Any, Any, Tensor]] = []
    arguments: list[tuple[Any, Iterable[tuple[Any, Any]]]] = [
        (call.host_args, enumerate(call.args)),
        (call.host_kwargs, call.kwargs.items()),
    ]
    for on_host, given in arguments:
        for key, value in given:
            if isinstance(value, Tensor):
                places.append((on_host, key, value))
            elif isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
                places += [(on_host[key], k, one) for k, one in enumerate(value) if isinstance(one, Tensor)]
    written = [call.argument(*where) for where in call.op.writes]
    storages = {_storage_of(one) for one in written if isinstance(one, Tensor) and one.is_mps and one.numel()}
    for storage in storages:
        sharing = [one for one in places if one[2].is_mps and _storage_of(one[2]) == storage]
        if len(sharing) < 2 or any(tensor.is_neg() or tensor.is_conj() for _, _, tensor in sharing):
            continue
        whole = _whole_storage(sharing[0][2], host)
        views: dict[int, Tensor] = {}  # a tensor that is read and written is one on the host, too
        for on_host, key, tensor in sharing:
            if on_host[key].dtype is not tensor.dtype:
                continue  # refused, and replaced by its nearest
            if id(tensor) not in views:
                views[id(tensor)] = torch.empty(0, dtype=tensor.dtype, device=whole.device)
                set_memory(views[id(tensor)], whole, tensor.storage_offset(), tensor)
            on_host[key] = views[id(tensor)]


def _storage_of(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _whole_storage(tensor: Tensor, host: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a host tensor of all bytes in a device tensor's storage."""
    storage = tensor.untyped_storage()
    whole = relabel.device(torch.empty(0, dtype=torch.uint8, device="cpu"))
    _set_storage.redispatch(_CPU_KEYS, whole, storage, 0, [storage.nbytes()], [1])
    return host(whole)


def check_in_storage(tensor: Tensor) -> None:
    """Refuse a view beyond its storage, as checkInBoundsForStorage does (aten/native/Resize.h) and meta kernels do not.

    Raises:
        RuntimeError: The view exceeds the storage; the message is PyTorch's.
    """
    if not tensor.numel():
        return
    offset, size = int(tensor.storage_offset()), tensor.element_size()
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed, there = (offset + last + 1) * size, tensor.untyped_storage().nbytes()
    if needed > there:
        raise RuntimeError(
            f"setStorage: sizes {list(tensor.shape)}, strides {list(tensor.stride())}, storage offset {offset}, and "
            f"itemsize {size} requiring a storage size of {needed} are out of bounds for storage of size {there}"
        )


class Outputs:
    """Put results of the host into tensors of the device.

    Args:
        host: A function that returns the host's view of a device tensor.
        wrap: A function that makes a device tensor of a result of an op, counted in the modelled memory.
        host_device: The device whose memory holds the values.
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
        """Give a tensor a new storage of `elements` elements that begins with the contents of its old one.

        On a Mac the storage itself grows, for all tensors that share it. Here the other tensors keep the old storage.

        Args:
            tensor: The tensor.
            elements: The number of elements of the new storage.
            written: The values that the caller writes next, if any. Contiguous ones are copied into the old storage
                too, as many as fit, so that the tensors that keep it see them.
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
