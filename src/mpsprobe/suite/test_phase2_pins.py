"""Phase 2: the target's requirements against what is installed."""

from __future__ import annotations

from mpsprobe.phases import pins
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.requirements import Pins
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(pins.CHECKS)
def test_pins(check: CheckSpec[Pins], mps_pins: Pins, mps_judge: Judge) -> None:
    """Make one check of phase 2: the target's requirements against what is installed."""
    mps_judge(check, mps_pins)
