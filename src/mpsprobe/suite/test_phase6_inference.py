"""Phase 6: a forward pass and the target's own inference."""

from __future__ import annotations

from mpsprobe.phases import inference
from mpsprobe.phases.check import Spec
from mpsprobe.phases.inference import Prediction
from mpsprobe.suite.checks_of import Judge, checks_of


@checks_of(inference.CHECKS)
def test_inference(check: Spec[Prediction], mps_prediction: Prediction, mps_judge: Judge) -> None:
    """A forward pass and the target's own inference."""
    mps_judge(check, mps_prediction)
