"""Phase 1: MPS on this machine, and the device that the run uses."""

from __future__ import annotations

from mpsprobe.phases.availability import CHECKS
from mpsprobe.phases.check import Spec
from mpsprobe.phases.site import Site
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(CHECKS)
def test_availability(check: Spec[Site], mps_site: Site, mps_judge: Judge) -> None:
    """Check MPS on this machine, and the device that the run uses."""
    mps_judge(check, mps_site)
