"""`mpsprobe baseline` and `mpsprobe diverge --against` as a user calls them, child processes and all."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.diverge import baseline, diverge
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import MpsprobeError
from tests.layers.conftest import MakeJob, planted

__all__ = ["planted"]

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def call(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), obj=Sink())


def test_written_here_and_matched_here(planted: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "base.safetensors"
    profile = str(planted("", "bfloat16").settings.profile)
    written = call(baseline, "--profile", profile, "--output", str(file), "--json")
    assert written.exit_code == 0, written.exception
    answer = json.loads(written.stdout)
    assert answer["calls"] == {"forward": 22, "inference": 88}
    assert answer["size"] == file.stat().st_size
    assert answer["dtype"] == "bfloat16"

    matched = call(diverge, "--device", "cpu", "--profile", profile, "--against", str(file))
    assert matched.exit_code == 0
    assert "against bfloat16 on cpu" in matched.output
    assert "Nothing diverges beyond the noise floor." in matched.output
    assert "forward logits: the same (ok)" in matched.output


def test_a_baseline_of_other_weights_is_refused(planted: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "base.safetensors"
    assert call(baseline, "--profile", str(planted().settings.profile), "--output", str(file)).exit_code == 0
    other = str(planted(builder="build_other").settings.profile)
    result = call(diverge, "--device", "cpu", "--profile", other, "--against", str(file))
    assert isinstance(result.exception, MpsprobeError)
    assert result.exception.exit_code == 2
    assert "of other weights" in result.exception.what


def test_an_emulation_is_no_baseline(tmp_path: Path) -> None:
    result = call(baseline, "--device", "emulated", "--output", str(tmp_path / "x"))
    assert result.exit_code == 2
    assert "emulated" in result.output
