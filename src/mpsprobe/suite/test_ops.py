"""Per-op checks: what becomes of each op that the target calls."""

from __future__ import annotations

from mpsprobe.ops.checks import CHECKS, Recorded
from mpsprobe.phases.check import Spec
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(CHECKS)
def test_ops(check: Spec[Recorded], mps_op_uses: Recorded, mps_judge: Judge) -> None:
    """The op uses of the target."""
    mps_judge(check, mps_op_uses)
