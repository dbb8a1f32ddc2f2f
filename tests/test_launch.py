"""How children are started: nothing beside the model, nothing in the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mpsprobe import launch


def test_working_directory_is_not_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('ran')")
    done = subprocess.run(
        launch.python("json.tool", "--help"), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bootstrap_of_old_pythons_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('ran')")
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    command = launch.python("json.tool", "--help")
    assert "-P" not in command
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_variables_that_steer_are_dropped() -> None:
    given = {
        "PYTEST_ADDOPTS": "-k x", "PYTEST_PLUGINS": "evil", "PYTHONSTARTUP": "x.py", "PYTHONWARNINGS": "error",
        "TRUST_REMOTE_CODE": "1", "HOME": "/home/me", "PYTHONPATH": ":/a::/b:",
    }  # fmt: skip
    assert launch.environment(given) == {"HOME": "/home/me", "PYTHONPATH": "/a:/b", "USE_HUB_KERNELS": "0"}
    assert "USE_HUB_KERNELS" not in launch.environment(given, trusted=True)
