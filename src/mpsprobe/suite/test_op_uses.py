"""Per-op checks: what happens to each op that the target calls."""

from __future__ import annotations

import pytest

from mpsprobe.ops.bench import Bench
from mpsprobe.ops.checks import CHECKS, Recorded
from mpsprobe.phases.check import CheckSpec
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(CHECKS)
def test_ops(check: CheckSpec[Recorded], mps_op_uses: Recorded, mps_judge: Judge) -> None:
    """Make one of the combined checks of the target's op uses."""
    mps_judge(check, mps_op_uses)


@pytest.mark.ops
@pytest.mark.each_op_use
def test_op_use(check: CheckSpec[Bench], mps_bench: Bench, mps_judge: Judge) -> None:
    """Replay one op use. It is collected on request: `-m ops`, or `--mpsprobe-ops`."""
    mps_judge(check, mps_bench)
