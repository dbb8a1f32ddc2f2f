"""The kernel behind every op of the virtual device: relabel the tensors, run the host's op, relabel the results.

One Python function is registered at the MPS dispatch key for every op that the chosen release registers there, and
one as that key's fallback. Both matter: with only the fallback, ops that are composite elsewhere (`linear`) would
decompose as on the CPU, and the stream of ops would not be the Mac's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from mpsprobe.device.virtual import direct, host_limits, random, schema
from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.cpp.port import Port
from mpsprobe.device.virtual.observer import Observer, OpFlag
from mpsprobe.device.virtual.rules.contract import Contract, nearest, note_forward
from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory
from mpsprobe.device.virtual.schema import Op, OpCall
from mpsprobe.device.virtual.written import (
    Outputs,
    check_in_storage,
    fresh_outputs,
    replace,
    set_memory,
    share_storages,
)
from mpsprobe.errors import OutOfReachError

Kernel = Callable[..., Any]

_CPU = torch.device("cpu")
_CPU_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_META_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.Meta)

#: Ops that need more than relabelling.
COPY = schema.facts(torch.ops.aten.copy_.default)
ITEM = schema.facts(torch.ops.aten._local_scalar_dense.default)

#: Dispatch keys of sparse tensors on MPS.
_SPARSE_KEYS = ("SparseMPS", "SparseCsrMPS")
#: Ops that return values of the device to the host, for which a Mac waits for the GPU.
_DATA_DEPENDENT = frozenset(
    {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"}
    | {"equal", "bincount", "repeat_interleave.Tensor", "is_nonzero"}
)
#: Index ops accept CPU indices with device tensors (aten/native/TensorAdvancedIndexing: index tensors are
#: moved).
_MOVES_INDICES = frozenset({"index", "_unsafe_index", "index_put_", "index_put", "_index_put_impl_"})


#: The host computes, but a user's `autocast("cpu")` must not affect MPS.
_NoAutocast = torch._C._DisableAutocast
_with_gradients = torch.is_grad_enabled


class Kernels:
    """Run every op that reaches the MPS dispatch key, on the host's memory.

    Attributes:
        overlaps_count: Whether the host computes on the tensors' own memory, so that PyTorch's checks see overlaps.
        contract: The rules of the chosen release, which decide what raises and what falls back.
        memory: The modelled unified memory, in which results are counted.
        observer: The observer of every op, wait, copy and finding, or None.
        host_device: The device whose memory holds the values and whose kernels compute: the CPU, or CUDA.
    """

    overlaps_count = True

    def __init__(
        self,
        contract: Contract,
        memory: UnifiedMemory,
        observer: Observer | None,
        generator: torch.Generator,
        host_device: torch.device = _CPU,
    ) -> None:
        self.contract = contract
        self.memory = memory
        self.observer = observer
        self.host_device = host_device
        self._storage = host_device.type
        self._generator = generator
        self._outputs = Outputs(self.host, self.wrap, host_device)
        self._port: Port | None = None
        self._refused_operands = False
        #: ops that only MPS has, and how the CPU computes them; ops that need more than relabelling
        self.computed_by: dict[str, Kernel] = {}
        self.special: dict[str, Kernel] = {
            "copy_": self.copy_,
            "resize_": self.resize_,
            "_local_scalar_dense": self.local_scalar,
        }

    # ------------------------------------------------------------------------------------------ registration

    def register(self, port: Port, names: Iterable[str], autograd: dict[str, Kernel]) -> None:
        """Take over the MPS key with a kernel for each op of `names`, those of `autograd`, and the fallback.

        Args:
            port: The port to the installed build's dispatcher.
            names: The ops that the chosen release registers for MPS; ops that the installed PyTorch lacks are
                left out.
            autograd: Kernels, above autograd, of composite ops that are implemented differently on a Mac
                (`redirect.py`).
        """
        kernels: dict[str, Kernel] = {}
        for name in dict.fromkeys([*names, *self.special]):
            overload = schema.overload_named(name)
            if overload is not None:
                kernels[name] = self.special.get(name) or self.bound_later(overload)
        above = dict(autograd)
        for name in self.contract.composite_here():
            overload = schema.overload_named(name)
            key = schema.composite_key(f"aten::{name}")
            if overload is not None and key is not None and name not in kernels and name not in above:
                (above if key == schema.ABOVE_AUTOGRAD else kernels)[name] = self._asked(overload, key)
        self._port = port
        port.take_over(kernels, above, self.fallback)
        try:
            for key in _SPARSE_KEYS:
                port.libraries("_").fallback(self._sparse(key), key)
        except (
            RuntimeError
        ):  # up to 2.8 these keys have no name: such a tensor can only be refused where it is made
            maker = "_sparse_coo_tensor_with_dims_and_tensors"
            kernel = functools.partial(self._sparse(_SPARSE_KEYS[0]), schema.overload_named(maker))
            port.libraries("aten").impl(maker, kernel, "CompositeExplicitAutograd")

    def _asked(self, overload: OpOverload, key: str) -> Kernel:
        """Return a kernel that decomposes an op as usual, and drops releases with a kernel of it (`Contract.ask`)."""
        op = schema.facts(overload)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            self.contract.ask(lambda one: one.kernel_of(op))
            return schema.decomposed(overload, key, *args, **kwargs)

        return kernel

    def _sparse(self, key: str) -> Kernel:
        """Return a kernel for sparse tensors: it raises the Mac's error, or OutOfReachError if the release has one."""

        def kernel(overload: OpOverload, *_args: Any, **_kwargs: Any) -> Any:
            op = schema.facts(overload)
            refused = self.contract.check_sparse(op, key)
            if refused is not None:
                raise refused  # even where failures are collected, as there is no result
            raise OutOfReachError(
                f"The emulation cannot compute {op.qualified}: it has no {key} tensors.",
                f"torch {self.contract.release.torch} has a kernel for it; whether the rest runs is unknown here.",
            )

        return kernel

    def unregister(self) -> None:
        """Remove the session's kernels from the dispatcher; do nothing if none were registered."""
        if self._port is not None:
            self._port.give_back()

    def bound_later(self, overload: OpOverload) -> Kernel:
        """Return the kernel of one registered op, bound at its first call.

        Reading the schemas of 900 ops takes longer than the rest of the start, and a model uses some fifty.
        """
        bound: Kernel | None = None

        def kernel(*args: Any, **kwargs: Any) -> Any:
            nonlocal bound
            if bound is None:
                bound = self.bind(schema.facts(overload))
            return bound(*args, **kwargs)

        return kernel

    def bind(self, op: Op) -> Kernel:
        """Return the kernel of one registered op: that of views, the direct one where it applies, else `run`."""
        self.contract.ask(lambda one: one.kernel_of(op))
        if op.is_view or op.base == "set_":
            return self._view(op)
        always_cpu = self.contract.runs_on_cpu(op.name)
        compute = self.computed_by.get(op.name)

        flags = int(OpFlag.FALLBACK if always_cpu else OpFlag.NATIVE)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            return self.run(op, args, kwargs, compute, flags)

        if compute or flags or self.contract.alike or op.name in _DATA_DEPENDENT or not direct.applies(op):
            return kernel
        return self._direct(op, kernel)

    def _direct(self, op: Op, full: Kernel) -> Kernel:
        """Return the short kernel of an op where the values are in CPU memory; elsewhere return `full`."""
        if self.host_device.type != "cpu":
            return full
        return direct.kernel(op, self.contract, self.observer, self.wrap, full)

    def _view(self, op: Op) -> Kernel:
        # The CPU's view kernels only make a new tensor over the same storage; with the CPU's keys they do so
        # for any device, and the storage stays shared.
        redispatch = op.overload._handle.redispatch_boxed  # what OpOverload.redispatch calls
        # the CPU's as_strided of torch < 2.9 checks the tensor's own key for the quantised case; meta's does not
        meta = relabel.LEGACY and op.base == "as_strided"
        keys = _META_KEYS if meta else _CPU_KEYS

        observer = self.observer

        def kernel(*args: Any, **kwargs: Any) -> Any:
            if _with_gradients():
                note_forward()
            result = redispatch(keys, *args, **kwargs)
            if meta:
                check_in_storage(result)
            if observer is not None:
                observer.op(op.overload, args, kwargs, result, 0)
            return result

        return kernel

    # ------------------------------------------------------------------------------------------------ running

    def fallback(self, overload: OpOverload, *args: Any, **kwargs: Any) -> Any:
        """Run an op without an MPS kernel: raise as a Mac does, or compute it on the host (see `Contract.missing`)."""
        op = schema.facts(overload)
        note_forward()
        flags = self.contract.missing(op)
        if op.is_view and not flags & (OpFlag.RAISED | OpFlag.FALLBACK):
            return overload.redispatch(_CPU_KEYS, *args, **kwargs)
        if flags & OpFlag.RAISED and self.observer is not None:
            self.observer.op(overload, args, kwargs, None, flags)
        return self.run(op, args, kwargs, self.computed_by.get(op.name), flags)

    def run(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Kernel | None, flags: int
    ) -> Any:
        """Run one op on device tensors: check it, compute it (by `compute` unless None), and call the observer."""
        note_forward()
        if flags & OpFlag.FALLBACK:
            self.contract.warn_fallback(op)
        flags |= self.contract.check_arguments(op, args, kwargs)
        call = OpCall(op, args, kwargs, *self.unwrap(op, args, kwargs))
        if self._refused_operands:
            self._replace_refused(call)
        if op.writes and self.overlaps_count:
            share_storages(call, self.host)
        if op.generator is None:
            result = self.compute(call, compute)
        else:
            with random.on_host(call.host_argument(*op.generator), self._storage):
                result = self.compute(call, compute)
        if self.observer is not None:
            self.observer.op(op.overload, args, kwargs, result, flags)
            if flags & OpFlag.FALLBACK:
                self.observer.sync("fallback")
                self.observer.crossing(_device_bytes((*args, *kwargs.values())), "to-host")
                self.observer.crossing(_device_bytes((result,)), "to-device")
            if op.name in _DATA_DEPENDENT:
                self.observer.sync("data-dependent")
        return result

    def compute(self, call: OpCall, compute: Kernel | None) -> Any:
        """Compute a call on the host (by `compute` unless None), and return its results as device tensors."""
        op = call.op
        kernel = compute or self._callable(op, call.host_args)
        with _NoAutocast():
            if op.writes and not op.is_inplace:
                return self._write(call, kernel)
            result = self._on_host(call, kernel)
        return call.args[0] if op.is_inplace else self.wrap(op, result)

    def _on_host(self, call: OpCall, kernel: Kernel) -> Any:
        """Call the host's kernel; where it lacks a dtype, compute in a wider one. Other errors pass through.

        Raises:
            OutOfReachError: The host cannot compute it, and whether the Mac can is unknown.
        """
        try:
            return kernel(*call.host_args, **call.host_kwargs)
        except (RuntimeError, MemoryError) as problem:
            failed = host_limits.allocation(problem)
            if failed is not None:
                self.memory.reserve(failed)  # the Mac's own limit comes first, if it is the smaller one
                raise host_limits.out_of_reach(call.op.qualified, problem) from problem
            if host_limits.is_missing_kernel(problem):
                raise host_limits.out_of_reach(call.op.qualified, problem) from problem
            if not host_limits.is_missing_dtype(problem):
                raise
            self.contract.check_unlikely(call.op, tensors_of((*call.args, *call.kwargs.values())))
            try:
                return host_limits.widened(call, kernel)
            except (RuntimeError, NotImplementedError):
                raise host_limits.out_of_reach(call.op.qualified, problem) from problem

    def _callable(self, op: Op, host_args: list[Any]) -> Kernel:
        # `x * 2` reaches mul.Tensor with 2 as a wrapped number, which arrives in Python as a plain number.
        # Only the overload packet accepts numbers there and keeps their weaker role in type promotion.
        for k in op.tensors:
            if k < len(host_args) and isinstance(host_args[k], (int, float, complex)):
                packet: Kernel = op.overload.overloadpacket
                return packet
        return op.call

    def _write(self, call: OpCall, kernel: Kernel) -> Any:
        """Run an op that writes into its arguments and may change their shapes (`out=`)."""
        op = call.op
        # the host's view of an empty tensor has no memory, though the tensor may be a view into a storage that has
        fresh = fresh_outputs(call, only_empty=True)
        try:
            result = self._on_host(call, kernel)
        except RuntimeError as problem:
            if "not resizable" not in str(problem):
                raise
            # memory made through DLPack cannot grow, so the op fills a new tensor
            fresh = fresh_outputs(call, only_empty=False)
            result = self._on_host(call, kernel)
        written = []
        for position, name in op.writes:
            old, new = call.argument(position, name), call.host_argument(position, name)
            if isinstance(old, Tensor) and old.is_mps:
                if (position, name) in fresh:
                    self._outputs.write_back(op, old, new)
                elif old.shape != new.shape or old.data_ptr() != new.data_ptr():
                    replace(old, self.wrap(op, new))
            written.append(old)
        if op.returns_writes:
            return written[0] if len(written) == 1 else tuple(written)
        return None if op.returns == 0 else self.wrap(op, result)

    # ---------------------------------------------------------------------------------------- host and device

    def unwrap(
        self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with host views of device tensors; refuse CPU tensors but scalars and some indices."""
        host, strangers = list(args), False
        refused = self.contract.questioned
        count = len(host)
        for k in op.tensors:
            if k < count:
                value = host[k]
                if isinstance(value, Tensor):
                    if value.is_mps:
                        if value.dtype in refused:
                            self._refuse(op, value)
                        host[k] = self.host(value)
                    elif value.dim():
                        strangers = True
        for k in op.lists:
            if k < count and host[k] is not None:
                strangers |= self._unwrap_list(op, host, k)
        if op.device is not None and op.device[0] < count:
            host[op.device[0]] = self.host_device
        if op.generator is not None and op.generator[0] < count:
            host[op.generator[0]] = self._host_generator(op, host[op.generator[0]])
        host_kwargs = dict(kwargs)
        for name, value in kwargs.items():
            if isinstance(value, Tensor):
                if value.is_mps:
                    if value.dtype in refused:
                        self._refuse(op, value)
                    host_kwargs[name] = self.host(value)
                elif value.dim():
                    strangers = True
            elif name in op.list_names and value is not None:
                strangers |= self._unwrap_list(op, host_kwargs, name)
            elif isinstance(value, torch.device):
                host_kwargs[name] = self.host_device
        if op.generator is not None and op.generator[0] >= count:
            name = op.generator[1]
            host_kwargs[name] = self._host_generator(op, kwargs.get(name))
        if strangers and op.base not in _MOVES_INDICES:
            self.contract.mixed_devices(op, args, kwargs)
        return host, host_kwargs

    def _refuse(self, op: Op, tensor: Tensor) -> None:
        """Refuse an operand; where failures are collected, note that the host computes it in another dtype."""
        if self.contract.check_operand(op, tensor):
            self._refused_operands = True

    def _replace_refused(self, call: OpCall) -> None:
        """Convert refused positional operands to the nearest dtypes that MPS has, except those that are written to."""
        self._refused_operands = False
        refused = self.contract.refused
        written = {position for position, _ in call.op.writes}
        for k, value in enumerate(call.host_args):
            if isinstance(value, Tensor) and value.dtype in refused and k not in written:
                call.host_args[k] = value.to(nearest(value.dtype))

    def _unwrap_list(self, op: Op, where: Any, key: Any) -> bool:
        strangers, tensors = False, []
        for value in where[key]:
            if isinstance(value, Tensor) and value.is_mps:
                if value.dtype in self.contract.questioned:
                    self._refuse(op, value)
                tensors.append(self.host(value))
            else:
                strangers |= isinstance(value, Tensor) and value.dim() > 0
                tensors.append(value)
        where[key] = tensors
        return strangers

    def _host_generator(self, op: Op, generator: torch.Generator | None) -> torch.Generator:
        if generator is None:
            return self._generator
        if not random.is_device(generator):
            self.contract.wrong_generator(op)
        return generator

    def host(self, tensor: Tensor) -> Tensor:
        """Return the host's view of a device tensor."""
        return relabel.host(tensor, self._storage)

    def wrap(self, op: Op, result: Any) -> Any:
        """Return results as device tensors, checked for dtypes and counted; raise OutOfReachError for sparse ones."""
        if isinstance(result, Tensor):
            if result.is_mps:
                return result
            if result.layout is not torch.strided:
                raise OutOfReachError(
                    f"The emulation cannot compute {op.qualified}: it returns a {result.layout} tensor.",
                    "The virtual device has strided tensors only; whether it runs on a Mac is unknown here.",
                )
            if result.dtype in self.contract.questioned:
                result = self.contract.refuse(op, result)
            tensor = relabel.relabelled(result, relabel.METAL)
            self.memory.track(tensor)
            return tensor
        if isinstance(result, (list, tuple)):
            return type(result)([self.wrap(op, one) for one in result])
        return result

    # -------------------------------------------------------------------------------------------- special ops

    def copy_(self, dst: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
        """Run `copy_`, the one op that copies between host and device."""
        note_forward()
        self.contract.check_copy(COPY, dst, src)
        on_host = [self.host(one) if one.is_mps else one for one in (dst, src)]
        if self.overlaps_count and dst.is_mps and src.is_mps:
            share_storages(OpCall(COPY, (dst, src), {}, on_host, {}), self.host)
        COPY.call(*on_host, non_blocking)
        self._told_copy(dst, src, non_blocking)
        return dst

    def _told_copy(self, dst: Tensor, src: Tensor, non_blocking: bool) -> None:
        if self.observer is None:
            return
        # as the dispatcher passes it, without arguments that equal the default
        self.observer.op(COPY.overload, (dst, src, True) if non_blocking else (dst, src), {}, dst, 0)
        if (src.is_mps and dst.is_mps) or not src.numel():
            return
        self.observer.crossing(dst.numel() * dst.element_size(), "to-host" if src.is_mps else "to-device")
        if not non_blocking:  # copy_and_sync of MPSStream.mm, in both directions
            self.observer.sync("copy")

    def resize_(
        self, tensor: Tensor, size: list[int], *, memory_format: torch.memory_format | None = None
    ) -> Tensor:
        """Run `resize_`: in place while the storage is large enough, over new memory otherwise."""
        if tuple(size) == tensor.shape and memory_format in (None, torch.preserve_format):
            return tensor  # its strides stay too (resize_impl_ of aten/native/Resize.h)
        wanted = torch.empty(size, dtype=tensor.dtype, device="meta")
        if memory_format not in (None, torch.contiguous_format, torch.preserve_format):
            wanted = torch.empty(size, dtype=tensor.dtype, device="meta", memory_format=memory_format)
        end = wanted.numel() + int(tensor.storage_offset())
        if wanted.numel() and end * tensor.element_size() > tensor.untyped_storage().nbytes():
            self._outputs.grow(tensor, end)
        set_memory(tensor, tensor, tensor.storage_offset(), wanted)
        return tensor

    def local_scalar(self, tensor: Tensor) -> Any:
        """Run `.item()`, for which the host waits for the device."""
        if tensor.dtype in self.contract.questioned:
            self.contract.check_operand(ITEM, tensor)
        if self.observer is not None:
            self.observer.op(ITEM.overload, (tensor,), {}, None, 0)
            self.observer.sync("item")
        return self.host(tensor).item()


def _device_bytes(values: Iterable[Any]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors_of(values) if one.is_mps)


def tensors_of(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among arguments, and those in their lists and tuples, one level deep."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [one for one in value if isinstance(one, Tensor)]
    return found
