from __future__ import annotations

import re

import pytest

from mpsprobe.report import render
from mpsprobe.run import Evidence, Status, Table
from tests.report import example_runs as examples


def tables(text: str) -> list[list[str]]:
    """Blocks of consecutive table rows, outside fences."""
    blocks: list[list[str]] = [[]]
    fence = ""
    for line in text.split("\n"):
        opening = re.match(r"`{3,}", line)
        if opening and not fence:
            fence = opening[0]
        elif fence and line == fence:
            fence = ""
        elif not fence and line.startswith("|"):
            blocks[-1].append(line)
            continue
        blocks.append([])
    return [block for block in blocks if block]


def cells(row: str) -> int:
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("build", examples.ALL.values(), ids=examples.ALL)
@pytest.mark.parametrize("format", ["md", "summary"])
def test_tables_are_tables(build: examples.Build, format: examples.Markdown) -> None:
    for block in tables(render(build(), format)):
        header, rule, *rows = block
        assert set(rule) <= set("|-: ")
        assert rows
        assert {cells(row) for row in rows} == {cells(header)} == {cells(rule)}


@pytest.mark.parametrize("format", ["md", "summary"])
def test_the_verdict_comes_first(format: examples.Markdown) -> None:
    text = render(examples.virtual_gpu(), format)
    assert "a virtual GPU is no evidence for real Macs" in text[: text.index("| stage |")]
    assert "measured on mps (virtual GPU)" in text[: text.index("| stage |")]


def test_output_stays_in_its_fence() -> None:
    run = examples.pins_failed()
    examples.find(run, "pins.check1").output = "```\n# not a heading\n| a | b |"
    text = render(run, "md")
    assert "````text\n```\n# not a heading\n| a | b |\n````" in text


def test_a_crash_names_signal_check_and_last_line() -> None:
    text = render(examples.crashed(), "md")
    assert text.index("## The process died") < text.index("## Failures") < text.index("## Phase 1")
    for fact in ("`SIGABRT`", "`transfer.placement`", "failed assertion"):
        assert fact in text
    summary = render(examples.crashed(), "summary")
    assert '<script>alert("not markup")</script>' in summary.split("```")[1]
    assert "<script>" not in "".join(summary.split("```")[::2])


def test_blocked_checks_state_their_reason_once() -> None:
    text = render(examples.pins_failed(), "md")
    section = text[text.index("## ⛔ Not run: blocked by phase 2 (pins)") :]
    assert "- Phase 6 (inference): 3 checks" in section
    assert text.count("does not satisfy <1.0") == 1


def test_numbers_stand_with_evidence_and_device() -> None:
    text = render(examples.passed("cuda", Evidence.MEASURED), "md")
    assert "| time per sample | 51.3 ms | measured | cuda | `inference.check1` |" in text
    assert "| peak memory | 412.88 MB | measured | host | `transfer.check1` |" in text


def test_op_uses_of_several_layers_are_one_row() -> None:
    text = render(examples.emulated(), "md")
    (row,) = [line for line in text.split("\n") if "`aten::mm`" in line]
    assert "`vlm.layers.*.self_attn.q_proj (4 modules)`" in row
    assert "| 12 |" in row  # 4 layers x 3 calls
    rows = [
        line.split("|")[1].split()[-1]
        for line in text.split("\n")
        if line.endswith("| emulated |") and "::" in line
    ]
    assert rows == ["raises", "fallback", "composite", "native"]


def test_the_summary_is_short_however_many_checks_fail() -> None:
    run = examples.emulated()
    for check in run.checks:
        check.status, check.message = Status.FAIL, "it failed " * 30
    summary = render(run, "summary")
    assert "and 31 more failures" in summary
    assert len(summary) < 10_000


def test_ragged_tables_are_squared() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks[2].table = Table(columns=["a"], rows=[[], ["x|y", 1], [None, True, 2.5]])
    text = render(run, "md")
    assert "| x\\|y | 1 |  |\n|  | yes | 2.5 |" in text
