"""Charts: what they draw is what the run says, to eyes and to a screen reader."""

from __future__ import annotations

import re

import pytest

from mpsprobe import report
from mpsprobe.layers.result import Divergence, FirstDivergence, Judged, Layer, Side, Verdict
from mpsprobe.report.charts import kinds_chart, rounds_chart
from mpsprobe.report.divergence import divergence_page, html
from mpsprobe.report.mosaics import macs_chart, releases_chart
from mpsprobe.run import (
    Check,
    Evidence,
    Fit,
    Hazard,
    MacFit,
    Phase,
    Predicted,
    ReleaseSummary,
    Rounds,
    Status,
)
from tests.report import example_runs as examples
from tests.report.test_html import Page
from tests.routes.cases import timing


def release(torch: str, raises: int, *, stopped: str = "") -> ReleaseSummary:
    uses = {"native": 40, **({"raises": raises} if raises else {})}
    return ReleaseSummary(
        torch=torch,
        op_uses={} if stopped else uses,
        calls={},
        findings={},
        not_native={},
        fully_native=not raises and not stopped,
        stopped=stopped,
    )


RELEASES = [release("2.6", 3), release("2.8", 0), release("2.10", 0, stopped="no such op")]


def test_a_release_has_its_answer_and_its_counts() -> None:
    chart = releases_chart(RELEASES)
    assert chart is not None
    assert [head.text for head in chart.columns] == ["2.6", "2.8", "2.10"]
    cells = {row.name: [cell.text for cell in row.cells] for row in chart.rows}
    assert cells == {"all on the GPU": ["no", "yes", "stops"], "raises": ["3"], "native": ["40", "40"]}
    assert "2.6 no, 2.8 yes and 2.10 stops" in chart.description
    assert releases_chart(RELEASES[:1]) is None


def mac(chip: str, cores: int, gib: int, fit: Fit) -> MacFit:
    return MacFit(
        mac=f"{chip}-{gib}",
        chip=chip,
        gpu_cores=cores,
        memory_gib=gib,
        fit=fit,
        needed_bytes=20 << 30,
        working_set_bytes=gib << 29,
    )


def test_macs_have_gaps_where_none_is_sold() -> None:
    chart = macs_chart(
        [
            mac("Apple M1", 8, 8, Fit.NO),
            mac("Apple M1", 8, 16, Fit.TIGHT),
            mac("Apple M1 Max", 32, 64, Fit.COMFORTABLE),
        ]
    )
    assert chart is not None
    first, second = chart.rows
    assert (first.name, [cell.text for cell in first.cells]) == ("M1, 8 cores", ["no", "tight"])
    assert (second.name, [cell.left for cell in second.cells]) == ("M1 Max, 32 cores", ["66.667"])
    assert "8 GB does not fit; 16 GB tight; 64 GB fits easily" in chart.description


def test_a_mark_for_every_round_and_the_quartiles_between() -> None:
    seconds = [0.010, 0.011, 0.012, 0.013, 0.020]
    check = Check(id="benchmark.forward", phase=Phase.BENCHMARK, title="Speed", status=Status.PASS)
    assert rounds_chart([check]) is None
    check.data = Rounds(seconds)
    chart = rounds_chart([check])
    assert chart is not None
    (row,) = chart.rows
    places = [float(mark) for mark in row.marks]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (2.0, 98.0)
    assert float(row.low) == pytest.approx(places[1], abs=0.01)
    assert float(row.low) + float(row.width) == pytest.approx(places[3], abs=0.01)
    assert row.text == "median 12.0 ms, 10.0 ms to 20.0 ms, 5 rounds"


def test_equal_rounds_divide_by_nothing() -> None:
    check = Check(
        id="benchmark.x", phase=Phase.BENCHMARK, title="Speed", status=Status.PASS, data=Rounds([1.0] * 4)
    )
    assert rounds_chart([check]) is not None


def test_kinds_are_drawn_by_time_where_it_is_known() -> None:
    uses = examples.emulated().op_uses
    by_bytes = kinds_chart(None, uses)
    assert by_bytes is None or "traffic" in by_bytes.title
    time = timing("m1-max-32c-64", 1.0, 2.0)
    time.share_by_kind = {"attention": 0.25, "matrix products": 0.75}
    chart = kinds_chart(time, uses)
    assert chart is not None
    assert [(row.name, row.text) for row in chart.rows] == [
        ("matrix products", "75.0%"),
        ("attention", "25.0%"),
    ]


def judged(ratio: float | None, problem: str = "") -> Judged:
    error = None if ratio is None else ratio * 1e-3
    return Judged(call=0, place="output", error=error, noise=1e-4, limit=1e-3, ratio=ratio, problem=problem)


def diverged() -> Divergence:
    def layer(module: str, ratio: float | None, verdict: Verdict, problem: str = "") -> Layer:
        return Layer(
            stage="forward",
            module=module,
            kind="Linear",
            calls=1,
            accumulated=judged(ratio, problem),
            verdict=verdict,
        )

    return Divergence(
        mpsprobe="0.1.0",
        target="<b>m</b>",
        subject=Side(label="emulated", device="emulated", dtype="float16", evidence=Evidence.EMULATED),
        reference=Side(label="cpu", device="cpu", dtype="float32", evidence=Evidence.MEASURED),
        criterion=["A layer diverges beyond its limit."],
        stages=[],
        outputs=[],
        layers=[
            layer("layers.10", None, Verdict.MAKES, "NaN that the reference does not have"),
            layer("layers.9", 20.0, Verdict.CARRIES),
            layer("layers.2", 0.5, Verdict.SOUND),
        ],
        first=FirstDivergence(
            stage="forward", module="layers.9", kind="Linear", verdict=Verdict.CARRIES, judged=judged(20.0)
        ),
    )


def test_a_layers_bar_passes_the_limit_only_when_it_diverges() -> None:
    page = divergence_page(diverged())
    limit = float(page.limit)
    beyond = [(bar.name, float(bar.width) > limit) for bar in page.chart]
    assert beyond == [
        ("layers.10 (forward)", True),
        ("layers.9 (forward)", True),
        ("layers.2 (forward)", False),
    ]
    assert [row[0].text for row in page.layers.rows] == ["layers.2", "layers.9", "layers.10"]  # as one counts
    assert page.status.key == "fail"


def test_the_page_of_a_divergence_is_whole_and_escaped() -> None:
    text = html(diverged())
    page = Page(text)
    assert "<b>m</b>" not in text
    assert "layers.9 (Linear) is the first module whose values diverge, in forward." in page.words
    assert page.tags["script"] == 0


def predicted() -> str:
    run = examples.emulated()
    run.checks = []
    run.predicted = Predicted(
        doing="",
        inputs=[],
        notes=[],
        dtypes={},
        releases=RELEASES,
        hazards=[
            Hazard(
                advisory="a-b",
                title="Attention is wrong",
                severity="critical",
                symptom="wrong",
                certainty="certain",
                fix="Use torch 2.11.",
                calls=4,
                op="aten::x",
            )
        ],
    )
    return report.render(run, "html")


def test_a_critical_fault_is_beside_the_verdict() -> None:
    words = Page(predicted()).words
    assert "Attention is wrong. Fix: Use torch 2.11." in words[: words.index("What breaks")]


def test_every_chart_has_a_text_alternative() -> None:
    text = predicted()
    figures = re.findall(r'<figure class="chart">.*?</figure>', text, re.DOTALL)
    assert len(figures) >= 2
    for figure in figures:
        assert re.search(r'role="img" aria-label="[^"]{20,}"', figure)
