"""Make arguments for a replay: tensors with the recorded metadata, and values for which the op is defined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from mpsprobe.ops import domains
from mpsprobe.ops.draws import CannotRebuildError, ReplayTensor, dtype_of, span
from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.signature import rebuild

#: Kinds of arguments that a JSON document cannot hold and that have no substitute here.
_OPAQUE = ("Stream", "Future", "ScriptObject", "__torch__", "Function", "Module")
_REAL = {"float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"}


@dataclass
class ReplayInputs:
    """The arguments of one op use, from which every run gets new copies.

    Attributes:
        use: The op use.
        func: Its overload.
        tensors: Its tensor arguments, in the order of `use.inputs`.
        names: The schema's name of the argument that each tensor belongs to.
        storage_bytes: The size of a `Storage` argument in bytes; None when there is none.
    """

    use: OpUse
    func: Any
    tensors: list[ReplayTensor]
    names: list[str]
    storage_bytes: int | None = None
    _written: list[int] = field(default_factory=list)

    def make(
        self, device: torch.device, dtype: torch.dtype | None = None
    ) -> tuple[list[Any], dict[str, Any], list[torch.Tensor]]:
        """Return new arguments on `device`.

        Args:
            device: The device for tensors that were recorded on the device.
            dtype: Another dtype for floating-point values; arguments that name a dtype change accordingly.

        Returns:
            The positional arguments, the keyword arguments, and the tensors that the op writes to.
        """
        fresh = [kept.fresh(device, dtype) for kept in self.tensors]
        use = _elsewhere(self.use, device, dtype)
        waiting = iter(fresh)
        _, args, kwargs = rebuild(use, lambda _meta: next(waiting))
        if self.storage_bytes is not None:
            args = [self._storage(value, device) for value in args]
        return args, kwargs, [fresh[index] for index in self._written]

    def _storage(self, value: Any, device: torch.device) -> Any:
        if value != "UntypedStorage":
            return value
        assert self.storage_bytes is not None
        return torch.zeros(self.storage_bytes, dtype=torch.uint8, device=device).untyped_storage()

    @property
    def bytes(self) -> int:
        """Return the bytes of the storages of all tensor arguments."""
        return sum(kept.flat.numel() * kept.flat.element_size() for kept in self.tensors)


def prepare(use: OpUse, seed: int) -> ReplayInputs:
    """Draw values for the arguments of an op use.

    Args:
        use: An op use that has a schema.
        seed: A seed, which gives the same values on every machine.

    Raises:
        CannotRebuildError: An argument cannot be made from what was recorded, or this torch has no such op.
    """
    if use.op.startswith("higher_order::"):
        raise CannotRebuildError("a higher-order op takes functions, which a document cannot hold")
    names, written, func = _arguments(use)
    generator = torch.Generator().manual_seed(seed)
    # A use recorded on the CPU moves as a whole; CPU scalars in a call with device tensors stay.
    mixed = any(not name.startswith("cpu") for name in _devices(use))
    tensors = [
        ReplayTensor(
            meta,
            torch.zeros(_length(use, index, meta), dtype=dtype_of(meta)),
            stays=mixed and meta.device.startswith("cpu"),
        )
        for index, meta in enumerate(use.inputs)
    ]
    domains.fill(use, tensors, names, generator)
    return ReplayInputs(use, func, tensors, names, _storage_bytes(use), written)


def _devices(use: OpUse) -> list[str]:
    """Return the devices of an op use's tensors, and of its `device` argument if it has one."""
    stated = use.scalars.get("device")
    return [tensor.device or "cpu" for tensor in use.inputs] + ([str(stated)] if stated else [])


def _arguments(use: OpUse) -> tuple[list[str], list[int], Any]:
    """Return the name of each tensor's argument, the positions that the op writes to, and the overload."""
    count = iter(range(len(use.inputs)))
    try:
        func, args, kwargs = rebuild(use, lambda _meta: _Place(next(count)))
    except (LookupError, StopIteration, AttributeError, ValueError) as problem:
        raise CannotRebuildError(f"{use.op}: {problem or 'its arguments do not fit its schema'}") from problem
    names = [""] * len(use.inputs)
    written = []
    positional = iter(args)
    for argument in func._schema.arguments:
        value = kwargs[argument.name] if argument.kwarg_only else next(positional)
        if isinstance(value, str) and any(word in str(argument.real_type) for word in _OPAQUE):
            raise CannotRebuildError(f"{argument.name} is a {value}, which a document cannot hold")
        for place in value if isinstance(value, list) else [value]:
            if isinstance(place, _Place):
                names[place.index] = argument.name
                if argument.alias_info is not None and argument.alias_info.is_write:
                    written.append(place.index)
    return names, written, func


@dataclass(frozen=True)
class _Place:
    """A placeholder for a tensor while its argument is determined."""

    index: int


def _length(use: OpUse, index: int, meta: TensorMeta) -> int:
    """Return the number of elements that a tensor's storage needs, which a view by `as_strided` may exceed."""
    length = span(meta)
    base = domains.base_name(use.op)
    if index == 0 and base in ("as_strided", "as_strided_", "_reshape_alias", "as_strided_copy"):
        size, stride = use.scalars.get("size", []), use.scalars.get("stride", [])
        reach = 0 if 0 in size else 1 + sum((s - 1) * t for s, t in zip(size, stride, strict=False))
        length = max(length, (use.scalars.get("storage_offset") or 0) + reach)
    return length


def _storage_bytes(use: OpUse) -> int | None:
    """Return the bytes that a storage argument needs for the view that the op makes of it; None without one."""
    if use.scalars.get("source") != "UntypedStorage":
        return None
    size, stride = use.scalars.get("size", []), use.scalars.get("stride", [])
    reach = 0 if 0 in size else 1 + sum((s - 1) * t for s, t in zip(size, stride, strict=False))
    return int((use.scalars.get("storage_offset") or 0) + reach) * dtype_of(use.inputs[0]).itemsize


def _elsewhere(use: OpUse, device: torch.device, dtype: torch.dtype | None) -> OpUse:
    """Return an op use for `device`, with arguments that name a floating-point dtype set to `dtype` unless it is None.

    A `device` of the CPU stays, and memory is never pinned.
    """
    scalars = dict(use.scalars)
    if "device" in scalars and not str(scalars["device"]).startswith("cpu"):
        scalars["device"] = str(device)
    if scalars.get("pin_memory"):
        scalars["pin_memory"] = False  # pinning needs an accelerator that the CPU reference does not have
    if dtype is not None:
        wide = str(dtype).removeprefix("torch.")
        for name in ("dtype", "out_dtype"):
            if scalars.get(name) in _REAL:
                scalars[name] = wide
        if scalars.get("half_to_float"):
            scalars["half_to_float"] = False
    return OpUse(op=use.op, inputs=use.inputs, outputs=use.outputs, scalars=scalars)
