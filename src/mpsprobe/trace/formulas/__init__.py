"""FLOPs and bytes of an op use, computed from its signature.

Nothing imports torch, so a forecast of a recorded or predicted run needs no model, no device and no torch. The
conventions are stated in `docs/recorder.md`.
"""

from __future__ import annotations

from mpsprobe.run import OpUse
from mpsprobe.trace.formulas import contractions, linalg, pointwise, traffic
from mpsprobe.trace.formulas.registry import FORMULAS, base_name

#: The modules that register formulas; each registration names the family of its ops.
MODULES = (contractions, linalg, pointwise)


def flops(use: OpUse) -> int | None:
    """Return the floating-point operations of one call; None without a formula that can be applied to it.

    That is so for an op without a formula, for sparse and nested tensors, and for a call with unexpected arguments.
    """
    name = base_name(use.op)
    if name in traffic.VIEWS or name in traffic.STILL:
        return 0
    rule = FORMULAS.get(name)
    if rule is None or not all(map(traffic.is_strided, use.inputs)):
        return None
    try:
        return rule(use)
    except (LookupError, ValueError, TypeError):
        # The op use has another release's schema, or belongs to a call that raised because of its arguments.
        return None


def bytes_moved(use: OpUse) -> int | None:
    """Return the least number of bytes that one call moves; None for an unknown dtype, or a sparse or nested tensor."""
    return traffic.bytes_moved(use)


def add_costs(use: OpUse) -> None:
    """Set `flops` and `bytes` of an op use to those of all its calls together; to None where they are unknown."""
    flops_once, bytes_once = flops(use), bytes_moved(use)
    use.flops = None if flops_once is None else flops_once * use.count
    use.bytes = None if bytes_once is None else bytes_once * use.count
