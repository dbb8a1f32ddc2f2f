"""`mpsprobe run --keep-going`: one run lists everything that the Mac refuses, and tries the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mpsprobe.models import profile
from mpsprobe.run import Check, Run, Status
from tests.cli.test_run import mpsprobe

_MODEL = """
import torch

class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    @property
    def dummy_inputs(self):
        return {"x": torch.linspace(-1, 1, 24).view(6, 4)}

class Missing(Layer):
    def forward(self, x):
        y = self.linear(x)
        spread = y.T @ y + torch.eye(4, device=y.device)
        return {"solved": torch.cholesky_solve(y.T, torch.linalg.cholesky(spread))}  # missing

class Everything(Missing):
    def forward(self, x):
        noise = torch.randn(3, generator=torch.Generator(), device=x.device)  # generator
        double = x.double()  # dtype
        return {**super().forward(x + noise.mean()), "double": double.float()}

class Mixed(Layer):
    def forward(self, x):
        y = self.linear.to(torch.bfloat16)(x).float()  # mixed
        spread = y.T @ y + torch.eye(4, device=y.device)
        return {"solved": torch.cholesky_solve(y.T, torch.linalg.cholesky(spread))}  # hidden

class Breaks(Layer):
    def forward(self, x):
        raise KeyError("no such weight")

class BreaksLater(Missing):
    def forward(self, x):
        super().forward(x)
        raise KeyError("no such weight")  # breaks

class Swallows(Missing):
    def forward(self, x):
        try:
            return super().forward(x)
        except NotImplementedError:
            return {"solved": self.linear(x)}
"""


def _line(mark: str) -> int:
    return next(n for n, line in enumerate(_MODEL.splitlines(), 1) if line.endswith(f"# {mark}"))


def _run(folder: Path, name: str, *arguments: str) -> tuple[int, dict[str, Check]]:
    (folder / "refused.py").write_text(_MODEL)
    done = mpsprobe(
        "run", f"refused:{name}", "--random-init", "--device", "emulated", "--torch", "2.8", "--phase", "6",
        *arguments, cwd=folder,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    run = Run.load(folder / "reports" / "latest" / "run.json")
    return done.returncode, {check.id.removeprefix("inference."): check for check in run.checks}


def _rows(check: Check) -> list[dict[str, Any]]:
    assert check.table is not None
    return [dict(zip(check.table.columns, row, strict=True)) for row in check.table.rows]


def test_one_run_lists_all_with_their_lines_and_still_fails(tmp_path: Path) -> None:
    code, checks = _run(tmp_path, "Everything", "--keep-going")
    assert code == 1
    found = {(row["kind"], row["at"]) for row in _rows(checks["refusals"])}
    assert found == {
        ("missing-op", f"refused.py:{_line('missing')}"),
        ("generator", f"refused.py:{_line('generator')}"),
        ("dtype", f"refused.py:{_line('dtype')}"),
    }
    assert checks["runs"].status is checks["refusals"].status is checks["recipe"].status is Status.FAIL
    assert checks["parity"].status is Status.PASS  # what comes after was looked at all the same
    assert "1 refusals are gone, 2 left" in checks["recipe"].message
    for mark in ("generator", "dtype"):
        assert f"refused.py:{_line(mark)}:" in checks["recipe"].remedy


@pytest.mark.slow
def test_a_recipe_covers_what_comes_after_a_fixed_error(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        'name = "own"\ntitle = "Own"\nautocast = "bfloat16"\n'
        f'adapter = "{profile.load("transformers").adapter}"\n'
    )
    code, checks = _run(tmp_path, "Mixed", "--keep-going", "--profile", "own.toml", "--autocast", "none")
    assert code == 1
    assert checks["runs"].status is checks["refusals"].status is Status.FAIL
    assert [(row["kind"], row["at"]) for row in _rows(checks["refusals"])] == [
        ("mixed-dtypes", f"refused.py:{_line('mixed')}")
    ]
    recipe = checks["recipe"]
    assert recipe.status is Status.PASS, recipe.message
    assert recipe.message.startswith(
        "PYTORCH_ENABLE_MPS_FALLBACK=1 before Python starts and autocast to bfloat16 around inference: verified"
    )
    assert checks["parity"].status is Status.BLOCKED


@pytest.mark.slow
def test_an_error_of_the_model_s_own_is_told_once(tmp_path: Path) -> None:
    _, checks = _run(tmp_path, "Breaks", "--keep-going")
    assert checks["runs"].status is Status.FAIL
    assert {check.status for name, check in checks.items() if name != "runs"} == {Status.BLOCKED}
    _, checks = _run(tmp_path, "BreaksLater", "--keep-going")
    assert [row["kind"] for row in _rows(checks["refusals"])] == ["missing-op", "error"]
    assert checks["recipe"].status is Status.UNKNOWN  # the variable helps, but no run shows that it is enough
    assert "no such weight" in checks["recipe"].message
    assert f"refused.py:{_line('breaks')}" in checks["recipe"].remedy


def test_what_a_model_catches_itself_is_told_without_the_option(tmp_path: Path) -> None:
    _, checks = _run(tmp_path, "Swallows")
    assert checks["runs"].status is Status.PASS
    assert checks["refusals"].status is Status.WARN
    assert _rows(checks["refusals"])[0]["at"] == f"refused.py:{_line('missing')}"
    assert checks["recipe"].status is Status.SKIPPED
