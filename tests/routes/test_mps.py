"""The MPS route."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge import ops
from mpsprobe.routes import checklist, cloud, mps
from mpsprobe.routes.case import Case, UnrecordedRefusal
from mpsprobe.run import (
    Check,
    Evidence,
    Fit,
    MemoryRemedy,
    OpVerdict,
    Phase,
    RemedyKind,
    Status,
    Viability,
)
from tests.routes.cases import GIB, case, memory, timing, use

NATIVE = [use(count=90)]


def judged(made: Case) -> mps.Judgement:
    return mps.judge(made)


@pytest.mark.parametrize(
    ("share", "grade"),
    [
        (1.0, mps.Grade.MOST),
        (0.901, mps.Grade.MOST),
        (0.90, mps.Grade.PART),  # "> 90 %"
        (0.70, mps.Grade.PART),  # "70-90 %"
        (0.699, mps.Grade.LITTLE),  # "< 70 %"
        (0.0, mps.Grade.LITTLE),
        (None, mps.Grade.UNKNOWN),
    ],
)
def test_thresholds_are_the_owners(share: float | None, grade: mps.Grade) -> None:
    assert mps.grade(share) is grade


def test_all_native_and_memory_to_spare_is_a_yes() -> None:
    found = judged(case(NATIVE))
    assert found.viability is Viability.YES
    assert found.grade is mps.Grade.MOST


def test_time_decides_and_not_calls() -> None:
    slow = [use(count=99), use("aten::nonzero", OpVerdict.FALLBACK)]
    made = case(slow, time=timing("M1 Max", 1.0, 2.0, share=0.4))
    assert made.native_calls == 0.99
    assert judged(made).grade is mps.Grade.LITTLE
    assert judged(made).viability is Viability.NO


def test_a_share_that_nobody_forecast_is_not_taken_from_calls() -> None:
    made = case([use(count=99), use("aten::nonzero", OpVerdict.FALLBACK)])
    assert judged(made).grade is mps.Grade.UNKNOWN
    assert judged(made).viability is Viability.UNKNOWN


@pytest.mark.parametrize("known", [True, False])
def test_unknown_memory_is_never_a_yes(known: bool) -> None:
    made = case(NATIVE, known=known, held=memory(Fit.UNKNOWN) if known else None)
    assert judged(made).viability is Viability.UNKNOWN


def test_what_does_not_fit_needs_a_remedy() -> None:
    assert judged(case(NATIVE, held=memory(Fit.NO))).viability is Viability.NO
    halved = MemoryRemedy(RemedyKind.PYTORCH, "float16 halves it.", Fit.COMFORTABLE)
    assert judged(case(NATIVE, held=memory(Fit.NO, remedies=[halved]))).viability is Viability.CHANGES
    # neither another library nor another Mac lets PyTorch run it on this one
    for kind in (RemedyKind.MLX, RemedyKind.LARGER_MAC):
        other = MemoryRemedy(kind, "It fits there.", Fit.COMFORTABLE)
        assert judged(case(NATIVE, held=memory(Fit.NO, remedies=[other]))).viability is Viability.NO


def test_past_metals_recommendation_is_no_plain_yes() -> None:
    found = judged(case(NATIVE, held=memory(Fit.TIGHT, needed=50 * GIB)))
    assert found.viability is Viability.CHANGES
    assert "swaps" in found.stops[0].what


def test_an_op_without_a_verdict_keeps_it_open() -> None:
    made = case([*NATIVE, use("mylib::op", OpVerdict.UNKNOWN)], time=timing("M1", 1.0, 2.0, share=0.99))
    assert judged(made).viability is Viability.UNKNOWN


def test_a_missing_op_names_variable_and_release() -> None:
    op = "aten::_cholesky_solve_helper"
    stop = judged(case([*NATIVE, use(op, OpVerdict.RAISES)], torch="2.8.0")).stops[0]
    assert mps.FALLBACK_VARIABLE in stop.fix
    first = next(
        release for release in ops.releases() if ops.release(release).lookup(op).support is ops.Support.NATIVE
    )
    assert f"use torch {first}" in stop.fix


def test_a_kernels_own_check_is_not_helped_by_the_variable() -> None:
    # mm has a kernel on every release: what raises there is a check inside it
    stop = judged(case([use("aten::mm", OpVerdict.RAISES)])).stops[0]
    assert mps.FALLBACK_VARIABLE not in stop.fix
    assert "on the CPU" in stop.fix


def test_macos_that_a_release_does_not_open_stops_it() -> None:
    found = judged(case(NATIVE, torch="2.13", macos="13.0"))
    assert found.viability is not Viability.YES
    assert "macOS" in found.stops[0].what


def test_a_refused_dtype_stops_it_and_an_assumed_one_does_not() -> None:
    refused = UnrecordedRefusal("Cannot convert a MPS Tensor to float64 dtype", "model.py:3")
    assert judged(case(NATIVE, refusals=[refused])).viability is Viability.CHANGES
    assumed = UnrecordedRefusal(refused.what, refused.where, certain=False)
    assert judged(case(NATIVE, refusals=[assumed])).viability is Viability.YES


def test_code_that_ended_early_is_a_no_unless_assumed() -> None:
    assert judged(case(NATIVE, stopped="ValueError: no")).viability is Viability.NO
    assert judged(case(NATIVE, stopped="ValueError: no", assumed=True)).viability is Viability.UNKNOWN
    mixed = "RuntimeError: Expected b and A to have the same dtype (at action.py:3)"
    assert judged(case(NATIVE, stopped=mixed, assumed=True)).viability is Viability.CHANGES


@pytest.mark.parametrize(("device", "stops"), [("mps", 1), ("emulated", 1), ("cpu", 0), ("cuda", 0)])
def test_a_failed_check_counts_where_mps_rules(device: str, stops: int) -> None:
    failed = Check(
        id="inference.runs",
        phase=Phase.INFERENCE,
        title="runs",
        status=Status.FAIL,
        evidence=Evidence.MEASURED,
        device=device,
        message="It raised.",
    )
    assert len(judged(case(NATIVE, checks=[failed], device=device)).stops) == stops


def test_evidence_is_the_weakest() -> None:
    measured = [use(evidence=Evidence.MEASURED)]
    assert case(measured, known=False).evidence is Evidence.MEASURED
    assert case(measured).evidence is Evidence.PREDICTED  # its forecast is
    assert mps.route(case(measured), judged(case(measured))).evidence is Evidence.PREDICTED


def test_a_forecast_is_predicted_whatever_the_ops_are() -> None:
    for level in (Evidence.EMULATED, Evidence.MEASURED):
        known = case([use(evidence=level)], time=timing("M1", 1.0, 2.0))
        assert known.ops_evidence is level
        assert mps.route(known, judged(known)).evidence is Evidence.PREDICTED
        assert cloud.route(known, []).evidence is Evidence.PREDICTED
        evidence = {row[0]: row[3] for row in checklist.table(known).rows}
        assert evidence["Inference speed acceptable (under 5 min a sample)"] == "predicted"
        assert evidence["Forward pass works"] == level.value


def test_a_rare_op_is_not_rounded_away() -> None:
    uses = [use(count=99_999), use("aten::_cholesky_solve_helper", OpVerdict.RAISES)]
    made = case(uses, time=timing("M1", 1.0, 2.0, share=0.99999))
    reasons = mps.route(made, judged(made)).reasons
    before = "On torch 2.8.0, without the changes: "
    assert reasons[0] == f"{before}99,999 of 100,000 op calls run on the GPU (raises: 1)."
    assert reasons[1].startswith("Nearly all of the op time")
