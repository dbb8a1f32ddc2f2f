"""Facts of an op overload that the kernel needs on every call, read from its schema once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

_TENSOR = ("Tensor", "Optional[Tensor]")
_TENSORS = ("List[Tensor]", "List[Optional[Tensor]]", "Optional[List[Tensor]]")


class Op:
    """The facts of an ATen overload that its schema states.

    Attributes:
        name: The name as in PyTorch's messages, without the namespace `aten`: `"add.Tensor"`, `"mm"`.
        base: The name without namespace and overload: `"add"`.
        overload: The overload itself.
        tensors: The positions of its tensor arguments among the positional ones.
        lists: The positions of arguments that are lists of tensors.
        tensor_names: The names of its tensor arguments.
        list_names: The names of its arguments that are lists of tensors.
        writes: The (position, name) of each argument that it writes to.
        returns_writes: Whether it returns exactly the arguments that it writes to.
        is_view: Whether a result may share memory with an argument that it does not write to.
        is_inplace: Whether its name ends in `_` and its first argument, `self`, is the only one that it writes to.
        generator: The (position, name) of its random generator; None without one.
        device: The (position, name) of its device argument; None without one.
        returns: The number of results.
    """

    __slots__ = (
        "base",
        "call",
        "device",
        "generator",
        "is_inplace",
        "is_view",
        "list_names",
        "lists",
        "name",
        "overload",
        "returns",
        "returns_writes",
        "tensor_names",
        "tensors",
        "writes",
    )

    def __init__(self, overload: OpOverload) -> None:
        schema = overload._schema
        namespace, self.base = schema.name.split("::")
        self.name = self.base + (f".{schema.overload_name}" if schema.overload_name else "")
        if namespace != "aten":
            self.name = f"{namespace}::{self.name}"
        self.overload = overload
        self.call = overload._op
        arguments = schema.arguments  # each access makes a new list
        kinds = [str(argument.type) for argument in arguments]
        self.tensors = tuple(k for k, kind in enumerate(kinds) if kind in _TENSOR)
        self.lists = tuple(k for k, kind in enumerate(kinds) if kind in _TENSORS)
        self.tensor_names = frozenset(arguments[k].name for k in self.tensors)
        self.list_names = frozenset(arguments[k].name for k in self.lists)
        self.writes = tuple(
            (k, argument.name)
            for k, argument in enumerate(arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        aliases = [result.alias_info for result in schema.returns]
        written = [alias is not None and alias.is_write for alias in aliases]
        self.returns_writes = bool(written) and all(written) and len(written) == len(self.writes)
        self.is_view = any(alias is not None and not alias.is_write for alias in aliases)
        self.is_inplace = len(self.writes) == 1 and self.writes[0] == (0, "self") and self.base.endswith("_")
        self.generator = _find(arguments, kinds, "Generator")
        self.device = _find(arguments, kinds, "Device")
        self.returns = len(schema.returns)

    def argument(self, position: int, name: str, args: Any, kwargs: Any) -> Any:
        """Return an argument of a call, passed by position or by name; None when it was left out."""
        return args[position] if position < len(args) else kwargs.get(name)

    @property
    def qualified(self) -> str:
        """Return the name with its namespace: `"aten::add.Tensor"`."""
        return self.name if "::" in self.name else f"aten::{self.name}"


def _find(arguments: Any, kinds: list[str], wanted: str) -> tuple[int, str] | None:
    for k, kind in enumerate(kinds):
        if wanted in kind:
            return k, arguments[k].name
    return None


@dataclass(slots=True)
class OpCall:
    """One call of an op: its arguments as passed, and on the host.

    Attributes:
        op: The op.
        args: The positional arguments with the device's tensors.
        kwargs: The keyword arguments with the device's tensors.
        host_args: The positional arguments with the host's tensors.
        host_kwargs: The keyword arguments with the host's tensors.
    """

    op: Op
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    host_args: list[Any]
    host_kwargs: dict[str, Any]

    def argument(self, position: int, name: str) -> Any:
        """Return an argument as the caller passed it, by position or by name."""
        return self.op.argument(position, name, self.args, self.kwargs)

    def host_argument(self, position: int, name: str) -> Any:
        """Return an argument on the host, passed by position or by name."""
        return self.op.argument(position, name, self.host_args, self.host_kwargs)


#: The keys of composite kernels in the order in which the dispatcher prefers them
#: (c10/core/dispatch/OperatorEntry.cpp, computeDispatchTableEntryWithDebug).
_COMPOSITE = (
    "CompositeExplicitAutogradNonFunctional",
    "CompositeExplicitAutograd",
    "CompositeImplicitAutograd",
)
#: The one of them that is above autograd.
ABOVE_AUTOGRAD = "CompositeImplicitAutograd"


def composite_key(name: str) -> str | None:
    """Return the key of an op's composite kernel in the installed PyTorch (`"aten::add.Tensor"`); None without one."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    try:
        return next((key for key in _COMPOSITE if has(name, key)), None)
    except RuntimeError:  # the installed PyTorch has no such op
        return None


def decomposed(overload: OpOverload, key: str, *args: Any, **kwargs: Any) -> Any:
    """Run an op's composite kernel at `key` (see `composite_key`), which calls other ops."""
    return overload._op_dk(getattr(torch._C.DispatchKey, key), *args, **kwargs)


_known: dict[OpOverload, Op] = {}


def facts(overload: OpOverload) -> Op:
    """Return the facts of an overload, which are read once in a process."""
    op = _known.get(overload)
    if op is None:
        op = _known[overload] = Op(overload)
    return op


def overload_named(name: str) -> OpOverload | None:
    """Return the ATen overload called `name` (`"add.Tensor"`) of the installed PyTorch; None when there is none."""
    base, _, suffix = name.partition(".")
    packet = getattr(torch.ops.aten, base, None)
    overload = None if packet is None else getattr(packet, suffix or "default", None)
    return overload if isinstance(overload, OpOverload) else None
