"""Programs read data: a run whose every word for readers was replaced still gives the same answers."""

from __future__ import annotations

import msgspec
import pytest

from mpsprobe import comparison
from mpsprobe.cli import expect
from mpsprobe.recipe import refused
from mpsprobe.report import headline
from mpsprobe.routes.case import Case
from mpsprobe.routes.recommend import of_run
from mpsprobe.run import (
    Check,
    Evidence,
    Host,
    Measurement,
    MeasurementKey,
    Phase,
    RecipeRecord,
    Refusal,
    Refusals,
    ReplayRecord,
    Replays,
    Run,
    Status,
    Table,
)
from tests.routes.cases import case, use

GIB = 1 << 30
MAC = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M1 Max", memory_bytes=64 * GIB)
REFUSAL = Refusal(
    Phase.INFERENCE, "dtype", "aten::mm", "float64 is not supported", "certain", "model.py:3", 2
)


def _check(
    id_: str, *numbers: tuple[MeasurementKey, float], status: Status = Status.PASS, data: object = None
) -> Check:
    measurements = [Measurement.of(each, value, "s", Evidence.MEASURED, "mps") for each, value in numbers]
    return msgspec.convert(
        {
            "id": id_,
            "phase": id_.split(".")[0],
            "title": "It does",
            "status": status.value,
            "message": "It did.",
            "remedy": "Do it.",
            "measurements": [msgspec.to_builtins(one) for one in measurements],
            "table": {"columns": ["kind", "op"], "rows": [["dtype", "aten::mm"]]},
            "data": msgspec.to_builtins(data),
        },
        Check,
    )


def _run(seconds: float) -> Run:
    quartiles = (
        (MeasurementKey.LOWER_QUARTILE, seconds * 0.99),
        (MeasurementKey.UPPER_QUARTILE, seconds * 1.01),
    )
    checks = [
        _check("inference.refusals", status=Status.FAIL, data=Refusals([REFUSAL])),
        _check("inference.recipe", data=RecipeRecord({"fallback": "1"}, tried=True, left=0)),
        _check("inference.time", (MeasurementKey.TIME_PER_SAMPLE, seconds)),
        _check(
            "inference.memory",
            (MeasurementKey.PEAK_MEMORY, 24 * GIB),
            (MeasurementKey.MEMORY_LIMIT, 48 * GIB),
        ),
        _check(
            "benchmark.forward", (MeasurementKey.MEDIAN, seconds), (MeasurementKey.ROUNDS, 30), *quartiles
        ),
        _check(
            "ops.replay",
            data=Replays([ReplayRecord("ops.aten.mm-1", "wrong"), ReplayRecord("ops.b", "hangs")]),
        ),
    ]
    uses = [msgspec.structs.replace(use(count=10, flops=10**12), evidence=Evidence.MEASURED)]
    return case(uses, checks=checks, device="mps", host=MAC).run


def _reworded(run: Run) -> Run:
    """Replace every word for readers: labels, titles, messages, remedies, headers and cells of tables."""
    checks = [
        msgspec.structs.replace(
            check,
            title="x",
            message="x",
            remedy="x",
            measurements=[msgspec.structs.replace(each, name="x") for each in check.measurements],
            table=check.table
            and Table(["x" for _ in check.table.columns], [["x"] for _ in check.table.rows]),
        )
        for check in run.checks
    ]
    return msgspec.structs.replace(run, checks=checks)


@pytest.mark.parametrize("change", [lambda run: run, _reworded], ids=["as written", "reworded"])
class TestReworded:
    def test_a_recipe_reads_what_its_trial_refused(self, change: object) -> None:
        assert callable(change)
        assert refused.answer(change(_run(1.0))).refused == [REFUSAL]

    def test_routes_read_memory_and_time(self, change: object) -> None:
        assert callable(change)
        found = of_run(change(_run(42.0)))
        assert found is not None
        assert found.forecast is not None
        memory = found.forecast.memory
        assert memory is not None
        assert (memory.needed_bytes, memory.limit_bytes) == (24 * GIB, 48 * GIB)
        assert Case(run=change(_run(42.0))).measured_seconds == 42.0

    def test_a_comparison_pairs_numbers(self, change: object) -> None:
        assert callable(change)
        a, b = _run(1.0), change(_run(2.0))
        found = comparison.compare(a, b)
        ratios = {(one.check, one.ratio) for one in found.measurements}
        assert ("inference.time", 2.0) in ratios
        median = next(
            one for one in found.measurements if one.check == "benchmark.forward" and one.ratio == 2.0
        )
        assert median.significance is comparison.Significance.SIGNIFICANT

    def test_a_headline_finds_the_recipe_and_expect_the_replays(self, change: object) -> None:
        assert callable(change)
        run = change(_run(1.0))
        assert headline.verdict(run).recipe
        assert list(expect._ids(run, Status.FAIL)) == ["ops.aten.mm-1"]
        assert list(expect._ids(run, Status.CRASHED, Status.TIMEOUT)) == ["ops.b"]
