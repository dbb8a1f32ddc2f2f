"""Totals of op uses: the ops that a model calls most, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from mpsprobe.run import OpUse


@dataclass
class Total:
    """Sums over some op uses.

    Attributes:
        name: What they have in common, such as the op.
        uses: The number of distinct uses.
        calls: The number of calls.
        flops: The floating-point operations of the calls that could be counted.
        bytes: The least number of bytes that the counted calls move.
        uncounted: The number of calls without a FLOP formula, which `flops` leaves out.
    """

    name: str
    uses: int = 0
    calls: int = 0
    flops: int = 0
    bytes: int = 0
    uncounted: int = 0

    def add(self, use: OpUse) -> None:
        """Add one op use."""
        self.uses += 1
        self.calls += use.count
        self.flops += use.flops or 0
        self.bytes += use.bytes or 0
        self.uncounted += use.count if use.flops is None else 0


def total(uses: Iterable[OpUse], name: str = "all") -> Total:
    """Return the sum of all op uses."""
    result = Total(name)
    for use in uses:
        result.add(use)
    return result


def totals_by(uses: Iterable[OpUse], group: Callable[[OpUse], str]) -> list[Total]:
    """Return a sum for each group, in order of first use.

    Args:
        uses: The op uses with their costs.
        group: A function that returns the group of a use, such as `lambda use: use.op` or `by_module(2)`.
    """
    result: dict[str, Total] = {}
    for use in uses:
        name = group(use)
        result.setdefault(name, Total(name)).add(use)
    return list(result.values())


def by_module(depth: int) -> Callable[[OpUse], str]:
    """Return a function that groups by the first `depth` parts of the module path."""
    return lambda use: ".".join(use.module.split(".")[:depth])


def by_signature(uses: Iterable[OpUse]) -> list[OpUse]:
    """Return one op use for each distinct call, with the module and line of the first.

    A model's layers repeat the same calls; a replay needs each of them once.
    """
    merged: dict[bytes, OpUse] = {}
    for use in uses:
        key = msgspec.json.encode((use.op, use.inputs, use.outputs, use.scalars))
        known = merged.get(key)
        if known is None:
            merged[key] = msgspec.structs.replace(use)
            continue
        known.count += use.count
        known.flops = None if known.flops is None or use.flops is None else known.flops + use.flops
        known.bytes = None if known.bytes is None or use.bytes is None else known.bytes + use.bytes
    return list(merged.values())
