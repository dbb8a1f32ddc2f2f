"""Settings survive the way to a child process, and refuse what cannot be meant."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.phases.settings import Settings
from mpsprobe.suite import plugin

pytest_plugins = ["pytester"]


def test_a_child_is_told_all_of_it(pytester: pytest.Pytester, tmp_path: Path) -> None:
    config = tmp_path / "own.json"
    config.write_text("{}")
    settings = Settings(
        model="package.module:Class",
        device="emulated",
        profile="transformers",
        revision="main",
        offline=True,
        ignore_pins=True,
        mac="m1-max-64",
        torch="2.8",
        macos="15.5",
        fallback=False,
        config=str(config),
        random_init=True,
        shrink=True,
        trust_remote_code=True,
        dtype="float16",
        new_tokens=3,
        autocast="cpu:bfloat16",
        keep_going=True,
    )
    untouched = [field.name for field in fields(Settings) if getattr(settings, field.name) == field.default]
    assert not untouched, "the test must set every field"
    assert plugin.settings_of(pytester.parseconfig(*settings.arguments())) == settings
    assert plugin.settings_of(pytester.parseconfig(*Settings().arguments())) == Settings()


def test_files_are_named_by_their_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    words = Settings(model="./model").arguments()
    assert words[words.index("--mpsprobe-model") + 1] == str(tmp_path / "model")
    assert "org/name" in Settings(model="org/name").arguments()


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"device": "tpu"}, "tpu"),
        ({"dtype": "int8"}, "int8"),
        ({"shrink": True}, "--random-init"),
        ({"autocast": "int8"}, "--autocast int8"),
        ({"keep_going": True, "device": "cpu"}, "--device emulated"),
        ({"model": "package:Class"}, "no weights"),
    ],
)
def test_bad_wishes_are_refused(wishes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Settings(**wishes)  # type: ignore[arg-type]
