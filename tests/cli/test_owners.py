"""Owners whose machine is not the developer's: one clear line each, and the documented exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from mpsprobe import mac
from mpsprobe.cli import cli, run
from mpsprobe.device.virtual import support
from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.mac.unavailable import TorchFacts, why_no_mps
from mpsprobe.run import Host

_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return folder


def refusal(result: Result) -> MpsprobeError:
    assert isinstance(result.exception, MpsprobeError), result.output
    assert "\n" not in result.exception.what
    return result.exception


@pytest.mark.parametrize("command", ["predict", "macs"])
@pytest.mark.parametrize(
    ("version", "said"),
    [("2.0.1", "older"), ("2.5.1+cu121", "older"), ("2.16.0", "newer"), ("3.0.0", "newer")],
)
def test_a_torch_outside_the_tables(
    monkeypatch: pytest.MonkeyPatch, model: Path, command: str, version: str, said: str
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    told = refusal(CliRunner().invoke(cli, [command, str(model)]))
    assert told.exit_code == 3
    assert f"The installed torch {version} is {said}" in told.what
    assert "Install torch 2.6 to 2.15 where mpsprobe runs" in told.hint


@pytest.mark.parametrize(
    ("rosetta", "said", "fix"),
    [(True, "under Rosetta", "Install an arm64 Python"), (False, "Intel processor", "docker run")],
)
def test_an_x86_python_on_a_mac(
    monkeypatch: pytest.MonkeyPatch, model: Path, rosetta: bool, said: str, fix: str
) -> None:
    host = Host(
        system="Darwin", machine="arm64" if rosetta else "x86_64", os_version="12.7.6", rosetta=rosetta
    )
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(support, "host", lambda: host)
    monkeypatch.setattr(mac, "host", lambda: host)
    told = refusal(CliRunner().invoke(cli, ["predict", str(model)]))
    assert told.exit_code == 3
    assert said in told.what
    assert fix in told.hint


@pytest.mark.parametrize(("macos", "torch_release"), [("12.7.6", "2.8.0"), ("13.7", "2.14.0")])
def test_a_macos_that_torch_no_longer_supports(macos: str, torch_release: str) -> None:
    host = Host(system="Darwin", machine="arm64", os_version=macos, chip="Apple M1")
    found = why_no_mps(host, TorchFacts(torch_release, built=True, available=False))
    assert found is not None
    assert found.cause == "macos"
    assert macos.partition(".")[0] in found.what or "macOS" in found.what
    assert "Update macOS" in found.remedy


#: A user whom the system does not know, and no HOME: cron, launchd, `docker run --user 12345`.
_NOBODY = """
import os, pwd, sys
def unknown(_):
    raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = unknown
for name in ("HOME", "XDG_CACHE_HOME", "MPSPROBE_CACHE", "HF_HOME"):
    os.environ.pop(name, None)
sys.path[:] = [place for place in sys.path if place]
from mpsprobe.cli import main
main()
"""


def nobody(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _NOBODY, *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def test_a_user_without_a_home_folder(model: Path, tmp_path: Path) -> None:
    ran = nobody(tmp_path, "predict", model, "--mac", "m2-8")
    assert ran.returncode == 0, ran.stderr
    assert "run on the GPU of an Apple M2" in ran.stdout
    refused = nobody(tmp_path, "cache")
    assert refused.returncode == 3
    assert refused.stderr.splitlines() == [
        "mpsprobe: This user has no home folder, so there is no place for caches.",
        "  Set HOME to a folder that can be written.",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no folder called ~


def test_a_path_of_no_users_home(tmp_path: Path) -> None:
    refused = nobody(tmp_path, "predict", "~nobody-of-that-name/model")
    assert refused.returncode == 2
    assert "begins with ~" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_fix_refuses_a_python_of_homebrew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=...\n")
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UsageError, match="managed by the system or Homebrew") as told:
        run._refuse_foreign_environment("pip install torch==2.8.0")
    assert "-m venv .venv" in told.value.hint


def test_fix_refuses_packages_of_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot write"):
        run._refuse_foreign_environment("pip install torch==2.8.0")
