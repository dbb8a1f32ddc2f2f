"""Phase 4: the model on the device."""

from __future__ import annotations

from mpsprobe.phases import transfer
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.transfer import Loaded
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(transfer.CHECKS)
def test_transfer(check: CheckSpec[Loaded], mps_model: Loaded, mps_judge: Judge) -> None:
    """Make one check of phase 4: the model on the device."""
    mps_judge(check, mps_model)
