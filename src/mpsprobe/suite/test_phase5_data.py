"""Phase 5: a sample, processed and moved to the device."""

from __future__ import annotations

from mpsprobe.phases import data
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.data import Prepared
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(data.CHECKS)
def test_data(check: CheckSpec[Prepared], mps_batch: Prepared, mps_judge: Judge) -> None:
    """Make one check of phase 5: a sample, processed and moved to the device."""
    mps_judge(check, mps_batch)
