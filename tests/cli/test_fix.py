"""`mpsprobe run --fix`: what it shows, asks and installs. The installation itself was played by hand: docs/hub.md."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from mpsprobe import launch
from mpsprobe.cli import run
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError
from mpsprobe.models.profile import Profile
from mpsprobe.options import Settings
from mpsprobe.phases import pins, requirements

FOUND = {"huggingface-hub": "1.3.2", "transformers": "4.55.4", "tokenizers": "0.21.4"}
NEEDS = ["transformers==4.57.1", "huggingface-hub<1.0", "tokenizers>=0.22.0,<=0.23.0"]
INSTALL = ["transformers==4.57.1", "huggingface-hub<1.0", "tokenizers<=0.23.0,>=0.22.0"]
Play = Callable[..., list[list[str]]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that plays --fix in the seed's environment: the commands that it would have run."""

    def playing(
        *, yes: bool = False, terminal: bool = True, answer: bool = False, needs: Any = NEEDS
    ) -> list[list[str]]:
        ran: list[list[str]] = []

        def record(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
            ran.append(command)
            return subprocess.CompletedProcess(command, 0)

        profile = Profile(name="x", title="x", adapter="a:b", requires=list(needs))
        found = requirements.resolve(profile, FOUND.get, lambda _: [], "3.12.1")
        monkeypatch.setattr(pins, "of_target", lambda *_: found)
        monkeypatch.setattr(subprocess, "run", record)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
        monkeypatch.setattr(click, "confirm", lambda *_a, **_k: answer)
        run._install_what_is_missing(Settings(), Sink(), yes=yes)
        return ran

    return playing


def test_yes_on_a_terminal_installs(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    assert play(answer=True) == [launch.python("pip", "install", *INSTALL)]
    told = capsys.readouterr()
    assert "transformers 4.55.4, required ==4.57.1" in told.err + told.out, "the plan comes first"


def test_no_installs_nothing(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    assert play(answer=False) == []
    told = capsys.readouterr()
    assert "nothing was installed" in told.err + told.out


def test_without_a_terminal_nothing_is_asked_nor_installed(play: Play) -> None:
    with pytest.raises(UsageError, match="there is no terminal") as caught:
        play(terminal=False, answer=True)
    assert "--yes" in caught.value.hint
    assert play(terminal=False, yes=True) == [launch.python("pip", "install", *INSTALL)]


def test_an_environment_without_pip_is_filled_by_uv(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments that uv makes have no pip."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(pins, "find_uv", lambda: "/bin/uv")
    assert play(yes=True) == [
        ["/bin/uv", "--no-config", "pip", "install", "--python", sys.executable, *INSTALL]
    ]
    monkeypatch.setattr(pins, "find_uv", lambda: None)
    with pytest.raises(UsageError, match="has no pip"):
        play(yes=True)


def test_what_fits_needs_no_installation(play: Play) -> None:
    assert play(yes=True, needs=["transformers>=4.55"]) == []


def test_a_module_beside_the_model_is_not_the_installers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [*run._installer([])[:-1], "--version"], capture_output=True, text=True, check=False
    )
    assert not (tmp_path / "ran").exists()
    assert done.stdout.startswith("pip "), done.stderr
