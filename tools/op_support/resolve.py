"""Derive from registrations and kernels what PyTorch's dispatcher does with each op on an MPS tensor.

The order of precedence is the dispatcher's (`OperatorEntry::computeDispatchTableEntry`): a kernel registered for
MPS itself, then the aliases CompositeExplicitAutogradNonFunctional, CompositeExplicitAutograd and
CompositeImplicitAutograd, then MPS's fallback, which raises or runs the op on the CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mpsprobe.knowledge._opfile import Kernel
from op_support.registration import FALLBACK, Registration

_ALIASES = {
    "CompositeExplicitAutogradNonFunctional": Kernel.STRUCTURED,
    "CompositeExplicitAutograd": Kernel.COMPOSITE_EXPLICIT,
    "CompositeImplicitAutograd": Kernel.COMPOSITE_IMPLICIT,
    "CatchAll": Kernel.COMPOSITE_IMPLICIT,
}
SPARSE_KEYS = ("SparseMPS", "SparseCsrMPS")
COMPOSITES = frozenset(_ALIASES.values())
MISSING = frozenset({Kernel.NONE, Kernel.NONE_NO_CPU, Kernel.NONE_VIEW})


@dataclass(frozen=True)
class Dispatch:
    """The dispatcher's result for one op: the kind of kernel, and the address of its code (None when unknown)."""

    kernel: Kernel
    address: int | None = None


def dispatch(
    ops: Iterable[str], views: Collection[str], python: Collection[str], registrations: Iterable[Registration]
) -> dict[str, Dispatch]:
    """Return the kernel that the dispatcher finds for each op on an MPS tensor.

    Args:
        ops: The qualified names of the ops.
        views: The names of ops whose result shares memory with an argument.
        python: The names of ops that PyTorch's Python code registers under MPS.
        registrations: The registrations of the library.
    """
    by_key: dict[str, dict[str, Registration]] = {}
    for registration in registrations:
        if registration.op != FALLBACK:
            by_key.setdefault(registration.key, {})[registration.op] = registration
    return {op: _dispatch(op, op in views, op in python, by_key) for op in sorted(ops)}


def _dispatch(
    op: str, view: bool, python: bool, by_key: Mapping[str, Mapping[str, Registration]]
) -> Dispatch:
    def registered(*keys: str) -> bool:
        return any(op in by_key.get(key, ()) for key in keys)

    if python:
        return Dispatch(Kernel.PYTHON)
    own = by_key["MPS"].get(op)
    if own is not None:
        return Dispatch(Kernel.CPU_FALLBACK if "mps_fallback" in own.kernel else Kernel.MPS, own.address)
    for alias, kernel in _ALIASES.items():
        registration = by_key.get(alias, {}).get(op)
        if registration is not None:
            return Dispatch(kernel, registration.address)
    if registered(*SPARSE_KEYS) and not registered("CPU"):
        return Dispatch(Kernel.SPARSE)
    if view:
        return Dispatch(Kernel.NONE_VIEW)
    return Dispatch(Kernel.NONE if registered("CPU") else Kernel.NONE_NO_CPU)


class Blockers:
    """Find the missing ops that stop a composite.

    Args:
        kernels: The kernel of every op.
        calls: The ops that each composite with known code calls.
        harmless: Ops that are missing for strided tensors but stop nothing, because they are called on other
            tensors.
    """

    def __init__(
        self,
        kernels: Mapping[str, Dispatch],
        calls: Mapping[str, Collection[str]],
        harmless: Collection[str] = (),
    ) -> None:
        self._kernels = kernels
        self._calls = calls
        self._harmless = harmless
        self._known: dict[str, frozenset[str]] = {}

    def of(self, op: str) -> frozenset[str]:
        """Return the missing ops that stop `op`: itself when it is missing, else the first ones below what it calls."""
        if op not in self._known:
            self._known[op] = frozenset()  # a cycle adds nothing
            self._known[op] = self._find(op)
        return self._known[op]

    def _find(self, op: str) -> frozenset[str]:
        kernel = self._kernels[op].kernel
        if kernel in MISSING:
            return frozenset({op})
        if kernel not in COMPOSITES:
            return frozenset()
        called = [other for other in self._calls.get(op, ()) if other != op and other not in self._harmless]
        direct = frozenset(other for other in called if self._kernels[other].kernel in MISSING)
        return direct or frozenset().union(*(self.of(other) for other in called))
