"""The package `alpamayo_r1`, which is not ours: what needs it is skipped where it is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from mpsprobe.models.alpamayo import published, repository

NEEDED = ("alpamayo_r1", *published.NEEDED)
needs_package = pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDED),
    reason="alpamayo_r1 (github.com/NVlabs/alpamayo) and what it imports are not installed",
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the published config, tokenizer and processor, and no weights."""
    made = tmp_path_factory.mktemp("alpamayo-r1")
    repository.write(made)
    return made


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with few layers and small widths."""
    made = tmp_path_factory.mktemp("alpamayo-tiny")
    repository.write(made, 3, tiny=True)
    return made
