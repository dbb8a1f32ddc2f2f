from pathlib import Path

import pytest

from mpsprobe.models.hub.cache import cache_dir


def test_named_folder_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSPROBE_CACHE", "~/elsewhere")
    assert cache_dir() == Path.home() / "elsewhere"


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("darwin", "", "Library/Caches/mpsprobe"),
        ("darwin", "/xdg", "Library/Caches/mpsprobe"),
        ("linux", "", ".cache/mpsprobe"),
        ("linux", "/xdg", "/xdg/mpsprobe"),
    ],
)
def test_platforms_folder(monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str, expected: str) -> None:
    monkeypatch.delenv("MPSPROBE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_dir() == Path.home() / expected
