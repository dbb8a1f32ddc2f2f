"""Many runs as one matrix, and what GitHub is told of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsprobe import report
from mpsprobe.cli import cli
from mpsprobe.report import matrix
from mpsprobe.report.exports import SUMMARY_LIMIT
from mpsprobe.run import Evidence, Mac, Run, Status
from tests.report import example_runs as examples


def on(release: str, name: str = "tiny-drive", *, failed: bool = False, started: str = "") -> Run:
    run = examples.emulated() if failed else examples.passed("emulated", Evidence.EMULATED)
    run.target.name = name
    run.mac = Mac(release, "15.5", "Apple M1 Max", 64)
    run.started = started or run.started
    return run


def test_a_cell_for_each_target_and_machine() -> None:
    merged = matrix.merge([on("2.13"), on("2.8", failed=True), on("2.8", "other")])
    text = matrix.markdown(merged)
    head, _, first, second = (line for line in text.splitlines() if line.startswith("|"))
    assert head.count("torch 2.8") == head.count("torch 2.13") == 1
    assert head.index("torch 2.8") < head.index("torch 2.13")
    assert first.startswith("| other")
    assert "not run" in first
    assert second.count("emulated") == 2
    assert merged.worst is Status.FAIL


def test_the_newest_run_of_a_machine_counts() -> None:
    old = on("2.8", failed=True, started="2026-01-01T00:00:00Z")
    new = on("2.8", started="2026-02-01T00:00:00Z")
    for order in ([old, new], [new, old]):
        assert [entry.started for entry in matrix.merge(order).entries] == [new.started]


def test_two_sizes_of_memory_are_two_machines() -> None:
    small, large = on("2.8"), on("2.8")
    small.mac = Mac("2.8", "15.5", "Apple M1 Max", 32)
    text = matrix.markdown(matrix.merge([small, large]))
    assert "torch 2.8, Apple M1 Max 32 GB, macOS 15.5, emulated" in text
    assert "Apple M1 Max 64 GB" in text


def test_a_predicted_cell_says_so_once() -> None:
    run = examples.passed("emulated", Evidence.EMULATED)
    run.checks, run.op_uses = [], examples.emulated().op_uses
    cells = next(line for line in matrix.markdown(matrix.merge([run])).splitlines() if "tiny-drive |" in line)
    assert cells.count("predicted") == 1


def test_hostile_names_stay_text() -> None:
    page = matrix.html(matrix.merge([on("2.8", name="<script>alert(1)</script>|`x`")]))
    assert "<script" not in page


def test_controls_of_names_are_shown_and_not_obeyed() -> None:
    merged = matrix.merge([on("2.8", name="good\u202egnp.exe\x1b[31m")])
    for text in (matrix.html(merged), matrix.markdown(merged)):
        assert "\\u202e" in text
        assert not {"\u202e", "\x1b"} & set(text)


def test_merge_writes_page_markdown_and_document(tmp_path: Path) -> None:
    paths = []
    for at, run in enumerate((on("2.8", failed=True), on("2.13"))):
        paths.append(tmp_path / f"{at}.json")
        run.save(paths[-1])
    done = CliRunner().invoke(cli, ["merge", *map(str, paths), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert [entry["torch"] for entry in document["entries"]] == ["2.8", "2.13"]
    assert "tiny-drive" in (tmp_path / "out" / "matrix.html").read_text()
    assert "tiny-drive" in (tmp_path / "out" / "matrix.md").read_text()


def test_annotations_are_one_line_each() -> None:
    run = on("2.8", failed=True)
    run.checks[0].status, run.checks[0].message = Status.FAIL, "two\nlines, 100%"
    lines = report.workflow_commands(run).splitlines()
    assert lines[0].startswith("::notice title=mpsprobe::")
    assert all(line.startswith("::") for line in lines)
    assert any("two%0Alines, 100%25" in line and line.startswith("::error title=") for line in lines)


def test_the_job_summary_grows_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    told = {"GITHUB_STEP_SUMMARY": str(path)}
    assert report.append_summary(on("2.8"), told) == path
    once = path.stat().st_size
    report.append_summary(on("2.13"), told)
    assert path.stat().st_size > once
    path.write_bytes(b"x" * SUMMARY_LIMIT)
    assert report.append_summary(on("2.8"), told) is None
    assert path.stat().st_size == SUMMARY_LIMIT


@pytest.mark.parametrize("value", ["", "/nowhere/at/all/summary.md"])
def test_a_summary_that_cannot_be_written_changes_nothing(value: str) -> None:
    assert report.append_summary(on("2.8"), {"GITHUB_STEP_SUMMARY": value}) is None


def test_the_badge_for_shields_names_status_and_evidence() -> None:
    document = json.loads(report.render(on("2.8", failed=True), "shields"))
    assert document["schemaVersion"] == 1
    assert document["message"] == "fail · emulated"
