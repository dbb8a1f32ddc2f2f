"""Profiles that other packages ship: found without an import, and a broken one harms no other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpsprobe.errors import ProfileError
from mpsprobe.models import choose, profile

_PROFILE = 'name = "{name}"\ntitle = "T"\nadapter = "planted_pkg.probe:Absent"\narchitectures = ["Planted"]\n'


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as site-packages, with a package that ships profiles."""
    data = tmp_path / "planted_pkg" / "profiles"
    data.mkdir(parents=True)
    (tmp_path / "planted_pkg" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (data / "planted.toml").write_text(_PROFILE.format(name="planted"))
    (data / "malformed.toml").write_text("name = ")
    (data / "tiny-drive.toml").write_text(_PROFILE.format(name="tiny-drive"))
    info = tmp_path / "planted_pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-pkg\nVersion: 1.0\n")
    points = {
        "planted": "planted_pkg.profiles",
        "malformed": "planted_pkg.profiles",
        "absent": "planted_pkg.profiles",
        "nowhere": "no_such_package_at_all",
        "tiny-drive": "planted_pkg.profiles",
    }
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[mpsprobe.profiles]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    profile._plugged.cache_clear()
    yield tmp_path
    profile._plugged.cache_clear()


def test_a_package_adds_its_profile_without_being_imported(packages: Path, tmp_path: Path) -> None:
    assert "planted" in profile.names()
    assert profile.load("planted").name == "planted"
    (tmp_path / "config.json").write_text('{"architectures": ["Planted"]}')
    assert choose.for_config(tmp_path).name == "planted"
    assert "planted_pkg" not in sys.modules


def test_broken_ones_are_told_of_once_and_harm_no_other(
    packages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first, second = profile.names(), profile.names()
    assert first == second
    assert {"planted", "tiny-drive", "transformers"} <= set(first)
    assert not {"malformed", "absent", "nowhere"} & set(first)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4
    assert all(line.startswith("mpsprobe: profile plugin left out (of planted-pkg): ") for line in lines)
    for name, says in (("malformed", "not valid TOML"), ("absent", "holds no"), ("nowhere", "holds no")):
        with pytest.raises(ProfileError, match=says):
            profile.load(name)
    assert profile.load("tiny-drive").adapter.startswith("mpsprobe."), "ours came first"
