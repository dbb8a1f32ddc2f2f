"""What a user reads of a package's own source: its scripts with "cuda", and what goes wrong without an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.models.weightless import config_only

_SCRIPT = """import torch
from my_drive.model import Model

model = Model.from_pretrained("owner/name").to("cuda")
torch.cuda.manual_seed_all(42)
with torch.autocast("cuda", dtype=torch.bfloat16):
    model()
"""
_SOLVER = """import torch


def solve(a, b):
    with torch.autocast(device_type="cuda", enabled=False):
        return torch.einsum("ij,jk->ik", a, b)
"""


def test_every_cuda_of_a_script_and_the_silent_error_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in alpamayo_r1: test_inference.py is its example, and its solver leaves CUDA's autocast only."""
    package = tmp_path / "my_drive"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('this must not run')\n")
    (package / "test_inference.py").write_text(_SCRIPT)
    (package / "solver.py").write_text(_SOLVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = "\n".join(one.sentence for one in config_only.source_findings("my_drive", "2.8"))
    for place in (
        "MPS101",
        "test_inference.py:4",
        "MPS703",
        "test_inference.py:5",
        "MPS201",
        "test_inference.py:6",
    ):
        assert place in said
    assert "MPS202" in said
    assert "solver.py:5" in said


def test_what_ran_is_told_from_what_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_drive"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "script.py").write_text(_SCRIPT)
    (package / "solver.py").write_text(f"{_SOLVER}\n\n{_SOLVER.partition('def')[2].join(['def', ''])}")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = config_only.source_findings("their_drive", "2.8", {"their_drive/solver.py:6"})
    assert [(one.code, one.places) for one in found if one.ran] == [("MPS202", ["solver.py:5"])]
    others = {place for one in found if not one.ran for place in one.places}
    assert {"solver.py:10", "script.py:4"} <= others


def test_package_that_is_not_installed_has_no_findings() -> None:
    assert config_only.source_findings("no_such_package_anywhere") == []
