from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli import cli
from mpsprobe.cli.compare import command
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError
from mpsprobe.run import DeviceChoice, Evidence, Measurement, MeasurementKey, Run, Status
from tests.report import example_runs as examples


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), obj=Sink())


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """A run on a Mac, and one there with another torch that is slower and fails a check."""
    a, b = (examples.passed("mps", Evidence.MEASURED, examples.M1_MAX) for _ in "ab")
    b.host.packages["torch"] = "2.9.0"
    for run, seconds in ((a, 1.0), (b, 2.0)):
        run.checks[-1].measurements = [
            Measurement.of(MeasurementKey.TIME_PER_SAMPLE, seconds, "s", Evidence.MEASURED, "mps")
        ]
    b.checks[-2].status, b.checks[-2].message = Status.FAIL, "It is not finite."
    paths = tmp_path / "a.json", tmp_path / "b"
    a.save(paths[0])
    paths[1].mkdir()
    b.save(paths[1] / "run.json")
    return paths


def test_worse_is_told_and_ends_with_1(runs: tuple[Path, Path]) -> None:
    result = call(*runs)
    assert result.exit_code == 1
    assert "2.8.0  2.9.0" in " ".join(result.output.split()).replace("torch 2.8.0 2.9.0", "2.8.0  2.9.0")
    assert "pass -> fail: It is not finite." in result.output
    assert "1.00 s -> 2.00 s, x2" in result.output
    assert result.output.startswith("Regressions in B: ")
    assert "\nRegressions in B: " in result.output  # the answer is first and last


def test_the_other_way_round_nothing_is_worse(runs: tuple[Path, Path]) -> None:
    result = call(*reversed(runs))
    assert result.exit_code == 0
    assert "better  inference" in result.output
    assert result.output.startswith("No regressions in B")


def test_a_long_machine_keeps_to_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run = examples.passed("emulated", Evidence.EMULATED)
    run.host.chip = "Intel(R) Xeon(R) Platinum 8488C Processor @ 2.90GHz"
    run.save(tmp_path / "run.json")
    result = CliRunner().invoke(cli, ["compare", str(tmp_path), str(tmp_path)])
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_json_has_it_all(runs: tuple[Path, Path]) -> None:
    result = call(*runs, "--json")
    found = json.loads(result.stdout)
    assert found["worse"] is True
    assert [check["change"] for check in found["checks"]] == ["worse"]
    assert found["measurements"][0]["ratio"] == 2
    assert found["b"]["packages"]["torch"] == "2.9.0"


def test_another_device_is_said_and_not_compared(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    other = Run.load(runs[0])
    other.device = DeviceChoice("cuda", "cuda", "")
    other.checks[-1].measurements = [
        Measurement.of(MeasurementKey.TIME_PER_SAMPLE, 9.0, "s", Evidence.MEASURED, "cuda")
    ]
    path = tmp_path / "cuda.json"
    other.save(path)
    result = call(runs[0], path)
    assert result.exit_code == 0
    assert "A used mps, B used cuda" in result.output
    assert "[not compared: on mps in A, on cuda in B]" in result.output


def test_files_that_are_not_there_are_usage_errors(runs: tuple[Path, Path], tmp_path: Path) -> None:
    result = call(runs[0], tmp_path / "none.json")
    assert isinstance(result.exception, UsageError)
    assert call(runs[0], runs[1], "--worse-by", "1").exit_code == 2
