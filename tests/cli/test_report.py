from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli import cli
from mpsprobe.errors import DataError, MpsprobeError, UsageError
from mpsprobe.run import Phase, json_schema
from tests.report import example_runs as examples


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)], catch_exceptions=True)


def refused(result: Result) -> MpsprobeError:
    assert isinstance(result.exception, MpsprobeError)
    assert result.exception.exit_code == 2
    return result.exception


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    examples.virtual_gpu().save(path)
    return path


def test_all_reports_are_rebuilt_beside_the_run(run_path: Path) -> None:
    result = call(run_path)
    assert result.exit_code == 0
    assert "a virtual GPU is no evidence for real Macs." in result.stdout
    for name in ("report.md", "report.html", "junit.xml"):
        assert (run_path.parent / name).is_file()
        assert str(run_path.parent / name) in result.stdout


def test_a_folder_stands_for_its_run(run_path: Path, tmp_path: Path) -> None:
    result = call(run_path.parent, "--output", tmp_path / "elsewhere", "--json")
    answer = json.loads(result.stdout)
    assert answer["evidence"] == "measured"
    assert answer["files"]["html"] == str(tmp_path / "elsewhere" / "report.html")
    assert Path(answer["files"]["html"]).is_file()


def test_the_latest_run_is_the_default(run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_path.parent)
    assert "no such file" in refused(call()).what
    latest = Path("reports/latest")
    latest.mkdir(parents=True)
    (latest / "run.json").write_bytes(run_path.read_bytes())
    assert call().exit_code == 0
    assert (latest / "report.html").is_file()


@pytest.mark.parametrize(
    ("name", "start"),
    [("md", "# mpsprobe"), ("html", "<!doctype html>"), ("json", "{"), ("junit", "<?xml"), ("badge", "<svg")],
)
def test_one_format_goes_to_stdout_or_to_a_file(run_path: Path, name: str, start: str) -> None:
    result = call(run_path, "--format", name)
    assert result.stdout.startswith(start)
    assert not (run_path.parent / "report.html").exists()
    target = run_path.parent / "sub" / "file"
    assert call(run_path, "--format", name, "--output", target).exit_code == 0
    assert target.read_text(encoding="utf-8").rstrip() == result.stdout.rstrip()


def test_an_existing_folder_receives_the_usual_name(run_path: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    result = call(run_path, "--format", "summary", "--output", tmp_path / "folder")
    assert result.stdout.strip() == str(tmp_path / "folder" / "summary.md")


def test_the_schema_is_printed_and_fits(run_path: Path) -> None:
    schema = json.loads(call("--schema").stdout)
    assert schema == json_schema()
    jsonschema.validate(json.loads(run_path.read_text()), schema)


def test_broken_documents_are_typed_errors(run_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert isinstance(refused(call(broken)), DataError)
    broken.write_text(run_path.read_text().replace('"schema": 1', '"schema": 99'))
    error = refused(call(broken))
    assert "written in schema 99" in error.what
    assert error.hint == "Upgrade mpsprobe."
    broken.write_text(run_path.read_text().replace('"pass"', '"passed"', 1))
    assert "checks[0].status" in refused(call(broken)).what
    broken.write_bytes(b"\xff\xfe\x00")
    assert isinstance(refused(call(broken)), DataError)


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    assert isinstance(refused(call(tmp_path / "none.json")), UsageError)
    assert "neither run.json nor journal.jsonl" in refused(call(tmp_path)).what


def test_an_output_that_cannot_be_written(run_path: Path) -> None:
    assert "cannot be written" in refused(call(run_path, "--format", "md", "--output", run_path / "x")).what
    assert "cannot be written" in refused(call(run_path, "--output", run_path)).what


def test_an_unknown_format_is_a_usage_error(run_path: Path) -> None:
    assert call(run_path, "--format", "pdf").exit_code == 2


def test_the_journal_of_a_killed_run_gives_reports(tmp_path: Path) -> None:
    from mpsprobe.run import journal

    run = examples.crashed()
    checks, run.checks, run.interruption = run.checks, [], None
    book = journal.Journal(tmp_path / "journal.jsonl")
    book.write(journal.RunStarted(run))
    plan = [journal.Planned(check.id, check.phase, check.title) for check in checks]
    flying = journal.Planned("transfer.placement", Phase.TRANSFER, "Every parameter is on the device")
    book.write(journal.Plan([*plan, flying]))
    for check in checks:
        book.write(journal.CheckStarted(check.id, 60))
        book.write(journal.CheckEnded(check))
    book.write(journal.CheckStarted(flying.id, 60))
    book.close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"type": "che')  # the kill came while a line was written
    result = call(tmp_path)
    assert result.exit_code == 0
    assert "in phase 4 (transfer), in the check transfer.placement" in result.stdout
    assert "transfer.placement" in (tmp_path / "report.html").read_text(encoding="utf-8")
