"""The training stage: optimisation steps, which `--train` or the marker `train` requests."""

from __future__ import annotations

from mpsprobe.phases import training_checks
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.training_steps import Training
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(training_checks.CHECKS)
def test_training(check: CheckSpec[Training], mps_training: Training, mps_judge: Judge) -> None:
    """Make one check of the target's optimisation steps."""
    mps_judge(check, mps_training)
