"""FLOPs and bytes of an op use, from its signature alone.

Free of torch: a forecast of a recorded or predicted run needs no model, no device and no torch. The
conventions stand in `docs/recorder.md`.
"""

from __future__ import annotations

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas import matmul
from mpsprobe.trace.formulas.registry import FORMULAS, base_name

__all__ = ["add_costs", "flops", "matmul"]


def flops(use: OpUse) -> int | None:
    """Floating-point operations of one call; None when no formula is known."""
    rule = FORMULAS.get(base_name(use.op))
    return None if rule is None else rule(use)


def add_costs(use: OpUse) -> None:
    """Set `flops` and `bytes` of all calls of an op use, where a formula is known."""
    once = flops(use)
    use.flops = None if once is None else once * use.count
