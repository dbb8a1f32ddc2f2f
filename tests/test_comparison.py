"""Two runs side by side: what counts as worse, and what must not be compared."""

from __future__ import annotations

from copy import deepcopy

import msgspec
import pytest

from mpsprobe.comparison import Change, Comparison, Significance, compare
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Evidence,
    Host,
    Interruption,
    Measurement,
    MeasurementKey,
    OpUse,
    OpVerdict,
    Phase,
    Run,
    Status,
    Target,
    TensorMeta,
)


def run(*checks: Check, device: str = "mps", uses: list[OpUse] | None = None, **more: object) -> Run:
    document = Run(
        mpsprobe="0",
        id="id",
        started="2026-01-01T00:00:00Z",
        target=Target(name="m", profile="p", dtype="bfloat16", weight_bytes=1),
        host=Host(
            system="Darwin",
            machine="arm64",
            os_version="15.5",
            chip="Apple M1 Max",
            packages={"torch": "2.8.0"},
        ),
        device=DeviceChoice("auto", device, ""),
        checks=list(checks),
        op_uses=uses or [],
    )
    return msgspec.structs.replace(document, **more)


def check(
    status: Status = Status.PASS,
    *measurements: Measurement,
    id: str = "inference.time",
    evidence: Evidence | None = Evidence.MEASURED,
    device: str = "mps",
) -> Check:
    return Check(
        id=id, phase=Phase.INFERENCE, title="t", status=status, evidence=evidence, device=device,
        measurements=list(measurements),
    )  # fmt: skip


def number(
    value: float | str | None,
    name: str = "time per sample",
    unit: str = "s",
    evidence: Evidence = Evidence.MEASURED,
    device: str = "mps",
) -> Measurement:
    key = next((one.value for one in MeasurementKey if one.label == name), "")
    return Measurement(name, value, unit, evidence, device, key)


def use(op: str, verdict: OpVerdict, dtype: str = "float32", evidence: Evidence = Evidence.MEASURED) -> OpUse:
    return OpUse(op=op, inputs=[TensorMeta(dtype, (2,), (1,))], verdict=verdict, evidence=evidence, count=3)


def only_check(a: Status | None, b: Status | None) -> Comparison:
    return compare(run(*([check(a)] if a else [])), run(*([check(b)] if b else [])))


@pytest.mark.parametrize(
    ("a", "b", "change"),
    [
        (Status.PASS, Status.WARN, Change.WORSE),
        (Status.PASS, Status.FAIL, Change.WORSE),
        (Status.WARN, Status.CRASHED, Change.WORSE),
        (Status.FAIL, Status.TIMEOUT, Change.WORSE),
        (Status.PASS, Status.BLOCKED, Change.WORSE),
        (Status.FAIL, Status.PASS, Change.BETTER),
        (Status.BLOCKED, Status.WARN, Change.BETTER),
        (Status.BLOCKED, Status.FAIL, Change.OTHER),
        (Status.PASS, Status.UNKNOWN, Change.LOST),
        (Status.PASS, Status.ERROR, Change.LOST),
        (Status.PASS, None, Change.LOST),
        (Status.UNKNOWN, Status.FAIL, Change.GAINED),
        (None, Status.FAIL, Change.GAINED),
        (Status.UNKNOWN, Status.SKIPPED, Change.OTHER),
    ],
)
def test_which_way_a_status_went(a: Status | None, b: Status | None, change: Change) -> None:
    found = only_check(a, b)
    assert [one.change for one in found.checks] == [change]
    assert found.worse is (change is Change.WORSE)


def test_a_run_beside_itself_is_the_same() -> None:
    document = run(check(Status.PASS, number(1.5)), uses=[use("aten::mm", OpVerdict.NATIVE)])
    found = compare(document, deepcopy(document))
    assert not found.worse
    assert (found.checks, found.ops, found.cautions) == ([], [], [])
    assert (found.same_checks, found.same_ops) == (1, 1)
    assert [(n.ratio, n.change) for n in found.measurements] == [(1.0, Change.SAME)]


@pytest.mark.parametrize(
    ("unit", "b", "change"),
    [
        ("s", 1.19, Change.SAME),
        ("s", 1.3, Change.WORSE),
        ("s", 0.7, Change.BETTER),
        ("bytes", 1.3, Change.WORSE),
        ("bytes/s", 1.3, Change.BETTER),
        ("bytes/s", 0.7, Change.WORSE),
        ("", 1.3, Change.OTHER),
        ("of the reference's scale", 1.3, Change.OTHER),
    ],
)
def test_which_way_a_number_went(unit: str, b: float, change: Change) -> None:
    found = compare(
        run(check(Status.PASS, number(1.0, unit=unit))), run(check(Status.PASS, number(b, unit=unit)))
    )
    assert [n.change for n in found.measurements] == [change]
    assert found.worse is (change is Change.WORSE)


def test_the_ratio_that_counts_can_be_set() -> None:
    a, b = (run(check(Status.PASS, number(value))) for value in (1.0, 1.3))
    assert compare(a, b).worse
    assert not compare(a, b, worse_by=1.5).worse


@pytest.mark.parametrize(
    ("other", "caution"),
    [
        ({"evidence": Evidence.EMULATED}, "measured in A, emulated in B"),
        ({"device": "cuda"}, "on mps in A, on cuda in B"),
        ({"unit": "ms"}, "in s in A, in ms in B"),
    ],
)
def test_numbers_of_another_kind_have_no_ratio(other: dict[str, str], caution: str) -> None:
    found = compare(
        run(check(Status.PASS, number(1.0))),
        run(check(Status.PASS, number(50.0, **other))),  # type: ignore[arg-type]
    )
    (measured,) = found.measurements
    assert (measured.a, measured.b, measured.ratio, measured.caution) == (1.0, 50.0, None, caution)
    assert not found.worse


def rounds(median: float, iqr: float, count: int) -> Check:
    return check(
        Status.PASS,
        number(median, "median"),
        number(median - iqr / 2, "lower quartile"),
        number(median + iqr / 2, "upper quartile"),
        number(count, "rounds", ""),
        id="benchmark.forward",
    )


@pytest.mark.parametrize(
    ("b", "iqr", "count", "significance", "change"),
    [
        # Notches are 1.57 * 0.1 / sqrt(16) = 0.039 to either side: apart from 0.079 on.
        (1.07, 0.1, 16, Significance.WITHIN, Change.SAME),
        (1.09, 0.1, 16, Significance.SIGNIFICANT, Change.WORSE),
        (0.91, 0.1, 16, Significance.SIGNIFICANT, Change.BETTER),
        (1.5, 1.0, 4, Significance.WITHIN, Change.SAME),
        (1.02, 0.001, 16, Significance.SIGNIFICANT, Change.SAME),
    ],
)
def test_medians_of_rounds_are_judged_by_their_scatter(
    b: float, iqr: float, count: int, significance: Significance, change: Change
) -> None:
    found = compare(run(rounds(1.0, iqr, count)), run(rounds(b, iqr, count)))
    median = next(n for n in found.measurements if n.name == "median")
    assert (median.significance, median.change) == (significance, change)


def test_a_median_without_quartiles_is_not_judged() -> None:
    one = check(Status.PASS, number(1.0, "median"), number(9, "rounds", ""), id="benchmark.forward")
    found = compare(run(one), run(deepcopy(one)))
    assert {n.significance for n in found.measurements} == {Significance.UNKNOWN}


def test_values_that_are_no_numbers_are_left_out() -> None:
    a = check(Status.PASS, number(None), number("x", "name"), number(float("nan"), "odd"), number(0, "zero"))
    b = check(Status.PASS, number(1.0), number("y", "name"), number(1.0, "odd"), number(1, "zero"))
    found = compare(run(a), run(b))
    assert [(n.name, n.ratio) for n in found.measurements] == [("zero", None)]


@pytest.mark.parametrize(
    ("a", "b", "change"),
    [
        (OpVerdict.NATIVE, OpVerdict.FALLBACK, Change.WORSE),
        (OpVerdict.FALLBACK, OpVerdict.RAISES, Change.WORSE),
        (OpVerdict.NATIVE, OpVerdict.WRONG, Change.WORSE),
        (OpVerdict.RAISES, OpVerdict.NATIVE, Change.BETTER),
        (OpVerdict.NATIVE, OpVerdict.COMPOSITE, Change.OTHER),
        (OpVerdict.NATIVE, OpVerdict.UNKNOWN, Change.LOST),
        (None, OpVerdict.RAISES, Change.WORSE),
        (None, OpVerdict.NATIVE, Change.OTHER),
        (OpVerdict.RAISES, None, Change.OTHER),
    ],
)
def test_which_way_an_ops_verdict_went(a: OpVerdict | None, b: OpVerdict | None, change: Change) -> None:
    rest = [use("aten::mm", OpVerdict.NATIVE)]
    found = compare(
        run(uses=rest + ([use("aten::x", a)] if a else [])),
        run(uses=rest + ([use("aten::x", b)] if b else [])),
    )
    assert [op.change for op in found.ops] == [change]
    assert found.same_ops == 1
    assert found.worse is (change is Change.WORSE)


def test_the_worst_use_of_an_op_and_dtype_counts() -> None:
    a = run(uses=[use("aten::mm", OpVerdict.NATIVE), use("aten::mm", OpVerdict.NATIVE, "bfloat16")])
    b = run(
        uses=[
            use("aten::mm", OpVerdict.NATIVE),
            *(use("aten::mm", v, "bfloat16") for v in (OpVerdict.WRONG, OpVerdict.NATIVE)),
        ]
    )
    (op,) = compare(a, b).ops
    assert (op.dtypes, op.a, op.b, op.calls_a, op.calls_b) == (
        ["bfloat16"],
        OpVerdict.NATIVE,
        OpVerdict.WRONG,
        3,
        6,
    )


def test_runs_without_ops_say_nothing_of_them() -> None:
    found = compare(run(), run(uses=[use("aten::x", OpVerdict.RAISES)]))
    assert found.ops == []
    assert not found.worse
    assert found.cautions == ["Only B has recorded ops: op verdicts were not compared."]


def test_what_keeps_runs_from_being_compared_is_said() -> None:
    a = run(check(evidence=Evidence.EMULATED))
    b = run(check(device="cuda"), device="cuda", target=Target(name="other", profile="p", dtype="float32"))
    found = compare(a, b)
    said = " ".join(found.cautions)
    assert "m in A, other in B" in said
    assert "bfloat16 in A, float32 in B" in said
    assert "A used mps, B used cuda" in said
    assert found.checks[0].caution == "emulated in A, measured in B"
    assert found.checks[0].change is Change.SAME


def test_numbers_of_two_models_are_not_set_against_each_other() -> None:
    other = Target(name="other", profile="p", dtype="bfloat16", weight_bytes=2)
    found = compare(run(check(Status.PASS, number(1.0))), run(check(Status.PASS, number(9.0)), target=other))
    assert [(n.ratio, n.caution) for n in found.measurements] == [(None, "of two targets")]
    assert not found.worse


def test_the_worst_comes_first() -> None:
    states = [
        ("a", Status.PASS, Status.PASS),
        ("b", Status.FAIL, Status.PASS),
        ("c", Status.PASS, Status.WARN),
    ]
    states += [("d", Status.PASS, Status.UNKNOWN), ("e", Status.PASS, Status.CRASHED)]
    found = compare(
        run(*[check(a, id=i) for i, a, _ in states]), run(*[check(b, id=i) for i, _, b in states])
    )
    assert [one.id for one in found.checks] == ["e", "c", "d", "b"]


def test_a_run_that_was_cut_off_is_worse_than_one_that_was_not() -> None:
    cut = run(interruption=Interruption("crashed", "SIGABRT", "", ""))
    assert compare(run(), cut).worse
    assert not compare(cut, run()).worse
    assert "cut off" in compare(run(), cut).cautions[0]
