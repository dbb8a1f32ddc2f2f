"""Values that had to be assumed because nothing computed them, and what came to depend on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mpsprobe.device.virtual.rules.contract import innermost_source
from mpsprobe.device.virtual.rules.unified_memory import free_reference, weak_reference


@dataclass
class Assumption:
    """One value that was assumed.

    Attributes:
        value: what was assumed, in words: `"0"`, `"False"`, `"index n // 2"`.
        op: the op whose result it is.
        source: `file:line` where that op was called.
        count: how often it was assumed there.
        dependents: `"op at file:line"` of what read it on the host or took its shape from it: branches,
            loops, sizes.
    """

    value: str
    op: str
    source: str
    count: int = 0
    dependents: list[str] = field(default_factory=list)


class Assumptions:
    """The list of assumptions, and which tensors hold assumed values.

    A tensor is recognised by its storage. The weak reference kept for it also keeps the address of the
    storage object from being used again, so no other storage can be taken for it.
    """

    def __init__(self) -> None:
        self.list: list[Assumption] = []
        self._known: dict[tuple[str, str, str], Assumption] = {}
        self._held: dict[int, tuple[int, Assumption]] = {}

    def __len__(self) -> int:
        return len(self.list)

    def assume(self, value: str, op: str, tensor: Tensor | None = None) -> Assumption:
        """Note an assumed value; `tensor` holds it."""
        key = (value, op, innermost_source())
        assumption = self._known.get(key)
        if assumption is None:
            assumption = self._known[key] = Assumption(*key)
            self.list.append(assumption)
        assumption.count += 1
        if tensor is not None:
            self.hold(tensor, assumption)
        return assumption

    def hold(self, tensor: Tensor, assumption: Assumption) -> None:
        """Remember that a tensor's values rest on an assumption."""
        storage = tensor.untyped_storage()
        self._held.setdefault(storage._cdata, (weak_reference(storage), assumption))

    def behind(self, tensors: Iterable[Any]) -> Assumption | None:
        """Return the assumption behind the first of these tensors that depends on one; None when none does."""
        if not self._held:
            return None
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                held = self._held.get(tensor.untyped_storage()._cdata)
                if held is not None:
                    return held[1]
        return None

    @staticmethod
    def depend(assumption: Assumption, what: str) -> None:
        """Note that something outside tensors now depends on an assumption."""
        text = f"{what} at {innermost_source()}"
        if text not in assumption.dependents:
            assumption.dependents.append(text)

    def close(self) -> None:
        """Let go of all weak references."""
        for reference, _ in self._held.values():
            free_reference(reference)
        self._held.clear()
