from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.diverge import diverge as command
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import DataError, MpsprobeError, UsageError
from mpsprobe.layers import supervised
from mpsprobe.layers.diverge import diverge
from mpsprobe.layers.supervised import Found, Job
from tests.layers.conftest import MakeJob, no_announcement, planted

__all__ = ["planted"]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), obj=Sink())


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs are done in this process, and kept."""
    done: list[Job] = []

    def run(job: Job, on_step: Any) -> Found:
        done.append(job)
        on_step("a step")
        return Found(diverge(job, no_announcement))

    monkeypatch.setattr(supervised, "run", run)
    return done


def test_a_divergence_is_named_and_ends_with_1(planted: MakeJob, jobs: list[Job]) -> None:
    profile = planted("layer").settings.profile
    result = call("--device", "cpu", "--profile", str(profile), "--stage", "forward")
    assert result.exit_code == 1
    assert "First to diverge: blocks.2.down (Linear), in forward, call 1: output." in result.output
    assert "its own code makes this error" in result.output
    assert "aten::addmm" in result.output
    assert "planted: float32 on cpu (measured) against float32 on the CPU" in result.output
    table = result.output[result.output.index("module ") :].splitlines()
    assert table[1].split()[:3] == ["blocks.2.down", "Linear", "forward"], "worst first"
    assert "forward logits: error" in result.output
    assert "not on MPS" in result.output, "what a CPU cannot say"
    assert jobs[0].stages == ["forward"]


def test_a_sound_model_ends_with_0_and_as_json(planted: MakeJob, jobs: list[Job]) -> None:
    result = call("--device", "cpu", "--profile", str(planted().settings.profile), "--no-local", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["first"] is None
    assert found["subject"]["evidence"] == "measured"
    assert not jobs[0].local


def test_a_nan_is_told_in_words(planted: MakeJob, jobs: list[Job]) -> None:
    result = call("--device", "cpu", "--profile", str(planted("nan").settings.profile), "--stage", "forward")
    assert result.exit_code == 1
    assert "1 of 384 elements are NaN, 0 in the reference." in result.output


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--device", "tpu"], UsageError, "no such device"),
        (["--against", "nowhere.safetensors"], UsageError, "no such file"),
        (["--profile", "nowhere"], MpsprobeError, "no such profile"),
        (["./nowhere"], UsageError, "no such folder"),
    ],
)
def test_wrong_calls_are_answered_before_anything_is_loaded(
    jobs: list[Job], arguments: list[str], error: type[MpsprobeError], words: str
) -> None:
    result = call(*arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert result.exception.exit_code == 2
    assert jobs == []


def test_a_file_that_is_no_baseline_is_refused(tmp_path: Path, jobs: list[Job]) -> None:
    path = tmp_path / "x"
    path.write_text("{}")
    result = call("--against", str(path))
    assert isinstance(result.exception, DataError)
    assert jobs == []
