"""`mpsprobe predict --output`: the reports of a prediction, with its routes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpsprobe.cli import cli
from mpsprobe.run import Evidence, Fit, Run, Viability
from tests.cli.test_predict import LLAMA

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers about options of tiny configs


def test_the_report_says_what_was_assumed_shrunk_and_fed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = ["predict", str(tmp_path), "--shrink", "--new-tokens", "3", "--autocast", "float16", "--json"]
    answer = CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "out")])
    told = json.loads(answer.stdout)["predicted"]
    assert any("Shrunk: num_hidden_layers 3 -> 2" in note for note in told["notes"])
    assert "Asked for: autocast to float16 around inference." in told["notes"]
    limits = Run.load(tmp_path / "out" / "run.json").limits
    for sentence in told["notes"]:
        assert sentence in limits
    assert "3 new tokens" in limits[0]
    assert "input_ids" in limits[0]
    assert "num_hidden_layers 3 -> 2" in (tmp_path / "out" / "report.html").read_text().replace("&gt;", ">")
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "autocast to float16 around inference" in markdown
    assert "3 new tokens" in markdown


def test_a_prediction_leaves_a_run_with_routes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = ["predict", str(tmp_path), "--torch", "2.13", "--macos", "15.5", "--mac", "m1-max-64"]
    answer = CliRunner().invoke(cli, [*arguments, "--output", str(tmp_path / "out")])
    assert answer.exit_code == 0, answer.output
    assert "\nUse MPS. " in answer.output

    run = Run.load(tmp_path / "out" / "run.json")
    assert run.checks == []
    assert {use.evidence for use in run.op_uses} == {Evidence.PREDICTED}
    assert any(use.outputs for use in run.op_uses)  # what crosses is counted from results too
    assert run.outlook is not None
    assert run.outlook.forecast is not None
    assert run.outlook.forecast.memory is not None
    assert run.outlook.forecast.memory.fit is Fit.COMFORTABLE
    routes = {route.name: route for route in run.outlook.routes}
    assert list(routes) == ["mps", "hybrid", "mlx", "cloud"]
    assert routes["mps"].viability is Viability.YES
    assert [part.does for part in routes["mlx"].components] == ["reuse"]
    assert {route.evidence for route in routes.values()} == {Evidence.PREDICTED}
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "Use MPS." in text
        assert "nothing ran on a Mac" in text
