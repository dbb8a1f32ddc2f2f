"""Phase 1: MPS on this machine, and the device that the run uses."""

from __future__ import annotations

from mpsprobe.phases.availability import CHECKS
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.site import Availability
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(CHECKS)
def test_availability(check: CheckSpec[Availability], mps_site: Availability, mps_judge: Judge) -> None:
    """Make one check of phase 1: MPS on this machine, and the device that the run uses."""
    mps_judge(check, mps_site)
