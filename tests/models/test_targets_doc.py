"""The worked example of docs/targets.md does what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mpsprobe.run import Run, Status
from tests.cli.test_run import mpsprobe

_PAGE = Path(__file__).parents[2] / "docs" / "targets.md"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The files of the page, as a reader would write them."""
    blocks = re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for name, _ in blocks] == ["target.py", "target.toml"]
    for name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_example_finds_the_missing_op_and_a_recipe(example: Path) -> None:
    command = re.search(r"\nmpsprobe (run \./target\.py .*)\n", _PAGE.read_text(encoding="utf-8"))
    assert command is not None
    done = mpsprobe(*command[1].split(), "--phase", "3", "--phase", "4", "--phase", "6", cwd=example)
    assert done.returncode == 1, done.stdout + done.stderr
    run = Run.load(example / "reports" / "latest" / "run.json")
    checks = {check.id: check for check in run.checks}
    assert run.target.profile == "sampler"
    table = checks["inference.refusals"].table
    assert table is not None
    line = next(
        n for n, text in enumerate((example / "target.py").read_text().splitlines(), 1) if "_solve" in text
    )
    assert [row[table.columns.index("at")] for row in table.rows] == [f"target.py:{line}"]
    recipe = checks["inference.recipe"]
    assert recipe.status is Status.PASS
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in recipe.message
    assert "torch 2.12" in recipe.message
    for name in (
        "download.files",
        "transfer.load",
        "inference.outputs",
        "inference.meaning",
        "inference.parity",
    ):
        assert checks[name].status is Status.PASS, checks[name].message


def test_its_prediction_names_the_same_op(example: Path) -> None:
    done = mpsprobe("predict", "./target.py", "--torch", "2.8", "--json", cwd=example)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    raising = {use["op"] for use in document["op_uses"] if use["verdict"] == "raises"}
    assert raising == {"aten::_cholesky_solve_helper"}
