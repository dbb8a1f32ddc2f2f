from __future__ import annotations

from collections.abc import Iterator

import pytest

from mpsprobe.device.virtual.session import Session, emulate
from mpsprobe.device.virtual.support import require
from mpsprobe.errors import UnsupportedInstallError


@pytest.fixture(autouse=True)
def _supported() -> None:
    try:
        require(memoryless=True)
    except UnsupportedInstallError as problem:
        pytest.skip(str(problem))


@pytest.fixture
def mps() -> Iterator[Session]:
    """The virtual device with the installed release's rules, without the fallback variable."""
    with emulate(fallback=False) as session:
        yield session
