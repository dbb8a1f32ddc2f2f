"""Values that had to be assumed because nothing computed them, and what depends on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mpsprobe.device.virtual.rules.contract import innermost_source
from mpsprobe.device.virtual.rules.unified_memory import free_reference, weak_reference


@dataclass
class Assumption:
    """A value that nothing computed, with what was assumed and what depends on it.

    Attributes:
        value: The assumption in a few words: `"0"`, `"False"`, `"index n // 2"`.
        op: The op whose result it is.
        source: The line that called the op, as `file:line`.
        count: The number of times that it was assumed there.
        dependents: Each branch, loop or size that read the value on the host or took its shape from it, as `"op at
            file:line"`.
    """

    value: str
    op: str
    source: str
    count: int = 0
    dependents: list[str] = field(default_factory=list)


class Assumptions:
    """The list of assumptions, and the tensors that hold assumed values.

    A tensor is identified by its storage. A weak reference to the storage keeps the address of its object from
    being reused, so no other storage can be mistaken for it.
    """

    def __init__(self) -> None:
        self.list: list[Assumption] = []
        self._known: dict[tuple[str, str, str], Assumption] = {}
        self._held: dict[int, tuple[int, Assumption]] = {}

    def __len__(self) -> int:
        return len(self.list)

    def assume(self, value: str, op: str, tensor: Tensor | None = None) -> Assumption:
        """Record that a value was assumed for the result of `op` at the current line of the target.

        Args:
            value: The assumption in a few words.
            op: The op.
            tensor: The tensor that holds the assumed value, or None.

        Returns:
            The assumption; the same object for the same value, op and line.
        """
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
        """Record that the values of a tensor come from an assumption; the first one recorded for its storage stays."""
        storage = tensor.untyped_storage()
        self._held.setdefault(storage._cdata, (weak_reference(storage), assumption))

    def behind(self, tensors: Iterable[Any]) -> Assumption | None:
        """Return the assumption of the first of these tensors whose values come from one; None when none do."""
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
        """Record that `what` (a branch, a loop or a size) depends on an assumption, with the target's current line."""
        text = f"{what} at {innermost_source()}"
        if text not in assumption.dependents:
            assumption.dependents.append(text)

    def close(self) -> None:
        """Free all weak references."""
        for reference, _ in self._held.values():
            free_reference(reference)
        self._held.clear()
