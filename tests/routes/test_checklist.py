"""The checklist: seven questions for every target, nine for Alpamayo."""

from __future__ import annotations

from mpsprobe.models import profile
from mpsprobe.routes import checklist, mps
from mpsprobe.routes.case import Case
from mpsprobe.run import (
    Check,
    Evidence,
    Fit,
    Hazard,
    Host,
    Measurement,
    MeasurementKey,
    OpVerdict,
    Phase,
    Predicted,
    Refusal,
    Status,
    Target,
    TrainingStep,
)
from tests.routes.cases import case, memory, timing, use

MAC = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M1 Max")


def answers(made: Case) -> dict[str, tuple[object, object]]:
    table = checklist.table(made)
    return {str(row[0]).split()[0]: (row[1], row[3]) for row in table.rows}


def check(name: str, status: Status = Status.PASS, device: str = "mps", **more: object) -> Check:
    phase = Phase(name.partition(".")[0])
    return Check(
        id=name,
        phase=phase,
        title=name,
        status=status,
        evidence=Evidence.MEASURED,
        device=device,
        message="",
        **more,  # type: ignore[arg-type]
    )


def test_only_alpamayo_is_asked_for_a_trace_and_a_trajectory() -> None:
    assert len(checklist.table(case([use()])).rows) == 7
    asked = Target(name="x", profile="alpamayo-r1", asks=profile.load("alpamayo-r1").asks)
    rows = checklist.table(case([use()], target=asked)).rows
    assert len(rows) == 9
    assert "Trajectory predicted" in [row[0] for row in rows]


def test_a_prediction_leaves_values_open() -> None:
    table = checklist.table(case([use()], time=timing("M1 Max", 1.0, 16.0, share=1.0)))
    predicted = ("yes", "predicted")
    assert [(row[1], row[3]) for row in table.rows] == [
        *[predicted] * 4,  # available, loads, forward, completes
        ("unknown", ""),  # baseline
        *[predicted] * 2,  # memory, speed
    ]


def test_what_ran_on_a_cpu_says_nothing_of_mps() -> None:
    ran = [check("transfer.load", device="cpu"), check("inference.runs", device="cpu")]
    found = answers(case([], checks=ran, device="cpu", known=False))
    assert found["Model"] == ("unknown", "")
    assert found["Forward"] == ("unknown", "")


def test_a_run_on_the_mac_answers_with_its_checks() -> None:
    ran = [
        check("availability.available"),
        check("transfer.load"),
        check("inference.runs"),
        check("inference.outputs"),
        check("inference.memory"),
        check(
            "inference.time",
            measurements=[
                Measurement.of(MeasurementKey.TIME_PER_SAMPLE, 60.0, "s", Evidence.MEASURED, "mps")
            ],
        ),
    ]
    table = checklist.table(case([use()], checks=ran, device="mps", host=MAC))
    told = [(row[1], row[3]) for row in table.rows]
    measured = ("yes", "measured on mps")
    assert told == [measured] * 4 + [("unknown", "")] + [measured] * 2


def test_failed_checks_say_no() -> None:
    found = answers(case([use()], checks=[check("inference.runs", Status.FAIL)], device="mps", host=MAC))
    assert found["Forward"] == ("no", "measured on mps")


def test_an_emulated_check_is_not_measured() -> None:
    found = answers(case([use()], checks=[check("inference.runs", device="emulated")], device="emulated"))
    assert found["Forward"] == ("yes", "emulated")


def test_raising_ops_and_too_little_memory_are_noes() -> None:
    made = case([use(verdict=OpVerdict.RAISES)], held=memory(Fit.NO))
    found = answers(made)
    assert found["Forward"][0] == found["Memory"][0] == found["Model"][0] == "no"


def test_five_minutes_are_the_limit() -> None:
    def speed(floor: float, expected: float | None) -> object:
        row = checklist.table(case([use()], time=timing("M1", floor, expected))).rows[-1]
        return row[1]

    assert speed(1.0, 199.0) == "yes"  # up to 298.5 s
    assert speed(1.0, 250.0) == "unknown"  # up to 375 s
    assert speed(1.0, 301.0) == "no"
    assert speed(301.0, None) == "no"
    assert speed(1.0, None) == "unknown"


def test_answers_after_the_changes_stand_beside() -> None:
    made = case([use(), use("aten::_cholesky_solve_helper", OpVerdict.RAISES)], time=timing("M1", 1.0, 2.0))
    found = checklist.table(made, mps.judge(made))
    rows = {row[0]: row for row in found.rows}
    assert found.columns[-1] == "after the changes"
    assert (rows["Forward pass works"][1], rows["Forward pass works"][-1]) == ("no", "yes, predicted")
    assert rows["Results match a CUDA baseline, if there is one"][-1] == "unknown"
    assert len(checklist.table(case([use()]), mps.judge(case([use()]))).columns) == 4


def test_a_fault_of_longer_inputs_is_no_fault_now() -> None:
    made = case([use(), use(verdict=OpVerdict.WRONG)])
    assert answers(made)["Results"] == ("no", "predicted")
    made.run.predicted = Predicted(
        doing="generate",
        inputs=[],
        notes=[],
        dtypes={},
        hazards=[
            Hazard(
                advisory="sdpa-decode-half-long-keys",
                title="wrong",
                severity="critical",
                symptom="wrong",
                certainty="possible",
                reached=True,
                from_tokens=1024,
            )
        ],
    )
    assert answers(made)["Results"] == ("unknown", "predicted")
    assert "wrong from 1,024 tokens on: 1" in mps.route(made, mps.judge(made)).reasons[0]


def test_what_does_not_load_is_not_answered_by_memory() -> None:
    refusal = Refusal(Phase.TRANSFER, "quantisation", "", "Loading raises ImportError", "certain", "")
    made = case([use()])
    made.run.predicted = Predicted(doing="", inputs=[], notes=[], dtypes={}, refusals=[refusal])
    assert answers(made)["Model"] == ("no", "predicted")


def test_a_training_step_is_asked_in_its_own_words() -> None:
    made = case([use()], time=timing("M1", 1.0, 2.0))
    made.run.target.training = TrainingStep(method="lora", optimizer="adamw")
    questions = [str(row[0]) for row in checklist.table(made).rows]
    assert "Forward and backward pass work" in questions
    assert "Speed acceptable (under 5 min a step)" in questions
    assert not any("nference" in one for one in questions)
