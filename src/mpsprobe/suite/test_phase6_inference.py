"""Phase 6: a forward pass and the target's own inference, and what the Mac refuses in them."""

from __future__ import annotations

from mpsprobe.phases import inference
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.inference import Inferred
from mpsprobe.recipe import refused
from mpsprobe.recipe.refused import Refused
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(inference.CHECKS)
def test_inference(check: CheckSpec[Inferred], mps_prediction: Inferred, mps_judge: Judge) -> None:
    """Make one check of phase 6: a forward pass, the target's own inference and their results."""
    mps_judge(check, mps_prediction)


@checks_of(refused.CHECKS)
def test_refusals(check: CheckSpec[Refused], mps_refused: Refused, mps_judge: Judge) -> None:
    """Make one check of what the Mac refuses, or of the settings with which the target runs."""
    mps_judge(check, mps_refused)
