"""What a replay says as a check, and all of them as one check; the worker is played here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpsprobe.errors import HarnessError
from mpsprobe.ops.bench import Bench
from mpsprobe.ops.expectations import Expectations
from mpsprobe.ops.isolation import Isolation
from mpsprobe.ops.protocol import CallTiming, ElementComparison, Replay, ReplayOutcome, Request
from mpsprobe.run import Evidence, Mac, OpUse, OpVerdict, Status
from tests.ops.test_isolation import SETUP
from tests.ops.test_naming import meta

Answers = Callable[[Request], Replay]


def bench(answers: Answers, **more: Any) -> Bench:
    isolation: Any = Isolation(SETUP)
    isolation.replay = answers
    return Bench(isolation, "mps", Evidence.MEASURED, Mac("2.8.0", "15.5", "Apple M1"), **more)


def mm(size: int = 3, **more: Any) -> OpUse:
    return OpUse(op="aten::mm", inputs=[meta("float32", size, size)] * 2, **more)


def found(off: int = 0, difference: float = 0.0) -> ElementComparison:
    return ElementComparison(0, "float32", "float64", difference, 1e-7, 1.0, 1e-6, 1e-5, off, 0, 9)


@pytest.mark.parametrize("outcome", list(ReplayOutcome))
def test_every_outcome_has_a_status_and_a_failure_a_remedy(outcome: ReplayOutcome) -> None:
    result = bench(lambda _: Replay(outcome=outcome, message="m")).check("x", mm())
    assert isinstance(result.status, Status)
    assert result.evidence is (None if outcome is ReplayOutcome.UNKNOWN else Evidence.MEASURED)
    if result.status in (Status.FAIL, Status.CRASHED, Status.TIMEOUT):
        assert result.remedy
        assert "NAME" not in result.remedy


def test_a_check_carries_difference_noise_and_time() -> None:
    answer = Replay(
        comparisons=[found(difference=2e-6)], timing=CallTiming(3e-3, 1e-3, 1e-5), repeatable=True
    )
    result = bench(lambda _: answer).check("x", mm())
    told = {measurement.name: measurement.value for measurement in result.measurements}
    assert told["difference"] == 2e-6
    assert told["rounding on the CPU"] == 1e-7
    assert told["time of a call"] == 3e-3
    assert told["time of a call on the CPU"] == 1e-3
    assert result.table is not None
    assert len(result.table.rows) == 1


def test_a_failure_names_the_advisory_that_it_meets() -> None:
    """linear-noncontiguous-wrong: torch 2.8, a weight that is not contiguous (PR 161641)."""
    tensors = [meta("float32", 2, 8), meta("float32", 6, 8, strides=(16, 1))]
    use = OpUse(op="aten::linear", inputs=tensors, scalars={"bias": None})
    result = bench(lambda _: Replay(outcome=ReplayOutcome.WRONG, message="off")).check("x", use)
    assert "linear-noncontiguous-wrong" in result.message
    assert "linear-noncontiguous" not in bench(lambda _: Replay()).check("x", use).message


def test_the_most_suspect_come_first_and_the_budget_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    uses = [
        mm(3),
        mm(4, verdict=OpVerdict.FALLBACK),
        mm(5, verdict=OpVerdict.RAISES),
        mm(6, advisories=["a"]),
    ]
    asked: list[int] = []
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("mpsprobe.ops.bench.time.monotonic", lambda: next(clock))

    def answer(request: Request) -> Replay:
        asked.append(request.use.inputs[0].shape[0])
        return Replay()

    result = bench(answer, budget_s=15).all(uses)
    assert asked == [5, 4]
    assert "2 were not replayed within 15 s" in result.message
    assert result.status is Status.PASS
    asked.clear()
    assert "not replayed" not in bench(answer, budget_s=1e6).all(uses).message
    assert asked == [5, 4, 6, 3]


def test_one_check_for_all_has_the_worst_status() -> None:
    outcomes = {
        3: ReplayOutcome.NATIVE,
        4: ReplayOutcome.WRONG,
        5: ReplayOutcome.CRASHED,
        6: ReplayOutcome.UNKNOWN,
    }
    uses = [mm(size, count=size, module=f"layer.{size}") for size in outcomes]
    given = bench(lambda request: Replay(outcome=outcomes[request.use.inputs[0].shape[0]], message="what"))
    result = given.all(uses)
    assert result.status is Status.CRASHED
    assert result.table is not None
    assert [row[:4] for row in result.table.rows] == [
        ["aten.mm-f32-5x5*2", "crashed", 5, "layer.5"],
        ["aten.mm-f32-4x4*2", "wrong", 4, "layer.4"],
        ["aten.mm-f32-6x6*2", "unknown", 6, "layer.6"],
    ]
    assert "aten.mm-f32-5x5*2: what" in result.message, "the worst is named"


def test_a_lost_worker_costs_no_known_answer() -> None:
    answers = iter([Replay(outcome=ReplayOutcome.WRONG, message="off"), None])

    def answer(_: Request) -> Replay:
        given = next(answers)
        if given is None:
            raise HarnessError("no worker")
        return given

    result = bench(answer).all([mm(3), mm(4), mm(5)])
    assert result.status is Status.ERROR
    assert "no worker" in result.message
    assert result.table is not None
    assert len(result.table.rows) == 1


def test_known_crashes_are_not_tried_and_stale_ids_are_said() -> None:
    def never(_: Request) -> Replay:
        raise AssertionError

    known = Expectations(skips={"ops.aten.mm*": "it aborts"}, xfails={"ops.gone": ""})
    result = bench(never, expected=known).all([mm()])
    assert result.status is Status.SKIPPED
    assert "ops.gone" in result.message
