"""The outlook in reports: drawn from the run alone, whole, escaped, and never better than its evidence."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from mpsprobe import report
from mpsprobe.report.headline import verdict
from mpsprobe.report.outlookview import outlook_view
from mpsprobe.report.view import page
from mpsprobe.routes.recommend import outlook
from mpsprobe.run import Evidence, Fit, MacFit, MemoryRemedy, OpVerdict, Outlook, RemedyKind, Run, Status
from mpsprobe.run.document import Hazard, Predicted, Quantisation, SourceFinding
from tests.routes.cases import GIB, case, memory, timing, use

NATIVE = [use(count=90), use("aten::silu", count=10)]
H100 = [timing("H100 SXM5", 0.18, 0.4)]


def predicted(*uses: object, **more: object) -> Run:
    made = case(
        list(uses) or NATIVE,  # type: ignore[arg-type]
        time=timing("m1-max-32c-64", 6.5, 16.3, share=0.97),
        elsewhere=H100,
        **more,  # type: ignore[arg-type]
    )
    made.run.ended = made.run.started
    made.run.outlook = outlook(made)
    return made.run


@pytest.mark.parametrize("format_", ["md", "html"])
def test_every_part_of_the_outlook_is_in_a_report(format_: report.Format) -> None:
    text = report.render(predicted(), format_)
    for wanted in (
        "What to do",
        "What would change it",
        "Routes",
        "Memory",
        "Time on Apple M1 Max, 32 GPU cores, 64 GB",
        "A sample elsewhere",
        "Routes compared",
        "Checklist",
        "Timeline to a first result",
        "H100 SXM5",
    ):
        assert wanted in text, wanted


def test_a_report_is_drawn_from_the_document_alone() -> None:
    run = predicted()
    again = msgspec.json.decode(msgspec.json.encode(run), type=Run)
    assert report.render(run, "md") == report.render(again, "md")
    assert report.render(run, "html") == report.render(again, "html")


def test_a_predicted_headline_tells_of_calls_and_the_mac() -> None:
    told = verdict(predicted())
    assert told.sentence.startswith("All 100 op calls of target run on the GPU of an Apple M1 Max with 64 GB")
    assert "nothing ran on a Mac" in told.sentence
    assert told.evidence is Evidence.PREDICTED
    assert told.status is Status.PASS
    assert told.word == "predicted to run"


@pytest.mark.parametrize(
    ("verdict_", "words", "status"),
    [
        (OpVerdict.RAISES, "1 raise", Status.WARN),
        (OpVerdict.WRONG, "1 give wrong values", Status.FAIL),
        (OpVerdict.UNKNOWN, "1 are not known", Status.UNKNOWN),
    ],
)
def test_the_headline_hides_nothing(verdict_: OpVerdict, words: str, status: Status) -> None:
    op = "aten::_cholesky_solve_helper" if verdict_ is OpVerdict.RAISES else "aten::mm"
    told = verdict(predicted(*NATIVE, use(op, verdict_)))
    assert "100 of 101 op calls of target run on the GPU of an Apple M1 Max" in told.outcome
    assert words in told.outcome
    assert told.status is status


def test_calls_of_an_unloadable_checkpoint_are_hypothetical() -> None:
    run = predicted()
    loading = Quantisation(
        method="GPTQ, 4 bits", outcome="raises", error="ImportError: optimum", fix="", checkpoint_bytes=1,
        sentences=[], routes=[],
    )  # fmt: skip
    run.predicted = Predicted(doing="", inputs=[], notes=[], dtypes={}, quantisation=loading)
    told = verdict(run).outcome
    assert told.startswith(
        "The checkpoint (GPTQ, 4 bits) does not load here. With plain weights, all 100 op calls"
    )
    assert "would run on the GPU" in told


@pytest.mark.parametrize(
    ("certainty", "words"),
    [("possible", "1 give wrong values from 1,024 tokens on"), ("certain", "1 give wrong values;")],
)
def test_wrong_values_of_longer_workloads_say_from_where(certainty: str, words: str) -> None:
    run = predicted(*NATIVE, use("aten::mm", OpVerdict.WRONG))
    fault = Hazard(advisory="a", title="t", severity="critical", symptom="wrong", certainty=certainty)
    fault = msgspec.structs.replace(fault, reached=True, from_tokens=1024)
    run.predicted = Predicted(doing="", inputs=[], notes=[], dtypes={}, hazards=[fault])
    assert words in f"{verdict(run).outcome};"


def test_findings_in_the_source_are_seen_without_unfolding() -> None:
    run = predicted(*NATIVE)
    loop = SourceFinding(
        code="MPS501", title="A loop", level="error", places=["a.py:3"], why="It never ends."
    )
    run.predicted = Predicted(
        doing="",
        inputs=[],
        notes=[],
        dtypes={},
        source=[
            msgspec.structs.replace(loop, code="MPS202", ran=True),
            msgspec.structs.replace(loop, places=["test_inference.py:3", "test_inference.py:9"]),
        ],
    )
    shown = page(run)
    assert shown.hazards is not None
    assert [one.advisory for one in shown.hazards.met] == ["MPS202"]
    assert [one.advisory for one in shown.hazards.possible] == ["MPS501"]
    assert shown.hazards.title == "2 places in its source to check for a Mac, not on the path that was run"
    assert "3 places to check for a Mac" in shown.answer.detail


def test_a_prediction_shows_no_phases() -> None:
    text = report.render(predicted(), "html")
    assert 'aria-label="Phases"' not in text
    assert 'class="tile' not in text


def test_without_an_outlook_a_report_says_nothing_of_routes() -> None:
    run = predicted()
    run.outlook = None
    for text in (report.render(run, "md"), report.render(run, "html")):
        assert "What to do" not in text.replace("**What to do:**", "").replace("<b>What to do</b>", "")
        assert "Routes compared" not in text
    assert outlook_view(Outlook()) is None


def test_a_forecast_without_routes_is_drawn_too() -> None:
    run = predicted()
    assert run.outlook is not None
    run.outlook = Outlook(forecast=run.outlook.forecast)
    assert "Memory" in report.render(run, "md")
    assert "Routes compared" not in report.render(run, "html")


def test_what_a_target_is_called_is_escaped() -> None:
    evil = use(source="<script>alert(1)</script>|`x`.py:3", verdict=OpVerdict.FALLBACK, module="")
    run = predicted(*NATIVE, evil)
    html = report.render(run, "html")
    assert "<script>alert" not in html
    table = [
        line for line in report.render(run, "md").splitlines() if "alert(1)" in line and line.startswith("|")
    ]
    assert table
    # a bare pipe would end a cell
    assert {len(re.findall(r"(?<!\\)\|", re.sub(r"&#\d+;", "", line))) for line in table} <= {5, 6, 10}


class _Tables(HTMLParser):
    """Cells of each row of each table, and whether each table can be scrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[int]] = []
        self.scrolls: list[bool] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("div", "section"):
            self._open.append(dict(attrs).get("class") or "")
        if tag == "table":
            self.rows.append([])
            self.scrolls.append("scroll" in self._open)
        if tag == "tr":
            self.rows[-1].append(0)
        if tag in ("td", "th"):
            self.rows[-1][-1] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("div", "section"):
            self._open.pop()


def test_every_table_is_a_rectangle_that_scrolls_by_itself() -> None:
    parser = _Tables()
    parser.feed(report.render(predicted(*NATIVE, use("aten::nonzero", OpVerdict.FALLBACK)), "html"))
    assert len(parser.rows) > 8
    assert all(len(set(cells)) == 1 for cells in parser.rows)
    assert all(parser.scrolls)


def test_markdown_tables_stand_on_lines_of_their_own() -> None:
    lines = report.render(predicted(*NATIVE, use("aten::nonzero", OpVerdict.FALLBACK)), "md").splitlines()
    heads = [at for at, line in enumerate(lines) if re.fullmatch(r"\|(-+:?\||--:\|)+", line)]
    assert len(heads) > 8
    for at in heads:
        assert lines[at - 2] == ""
        assert lines[at].count("|") == len(re.findall(r"(?<!\\)\|", lines[at - 1]))
    assert not any(line.count("|---") > 1 and not line.startswith("|--") for line in lines)


def test_what_does_not_fit_is_said_with_what_would_help() -> None:
    larger = MemoryRemedy(RemedyKind.LARGER_MAC, "A Mac with 128 GB of memory.", Fit.COMFORTABLE)
    held = memory(Fit.NO, needed=100 * GIB, remedies=[larger])
    text = report.render(predicted(held=held), "md")
    assert "does not fit" in text
    assert "A Mac with 128 GB of memory." in text
    assert verdict(predicted(held=held)).status is Status.FAIL  # on the target Mac nothing helps
    narrower = MemoryRemedy(RemedyKind.PYTORCH, "Weights in bfloat16.", Fit.COMFORTABLE)
    held = memory(Fit.NO, needed=100 * GIB, remedies=[narrower, larger])
    assert verdict(predicted(held=held)).status is Status.WARN


def test_the_job_summary_says_what_to_do() -> None:
    text = report.render(predicted(), "summary")
    assert "What to do: **Use MPS." in text
    assert "| stage |" not in text


def test_macs_are_held_against_the_target() -> None:
    fit = MacFit(
        mac="m4-16", chip="Apple M4", gpu_cores=10, memory_gib=16, fit=Fit.NO, needed_bytes=22_000_000_000,
        working_set_bytes=12 * GIB, quantised="4-bit",
    )  # fmt: skip
    run = predicted()
    assert run.outlook is not None
    run.outlook.macs = [fit, msgspec.structs.replace(fit, mac="m4-max-64", fit=Fit.COMFORTABLE)]
    page = report.render(run, "html")
    assert "Macs of the catalogue" in page
    assert "1 of 2 fit" in page
    assert "22.00 GB" in page
    assert page.index("m4-16") < page.index("m4-max-64")
