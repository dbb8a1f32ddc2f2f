"""The decorator that makes one test for each check of a phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mpsprobe.phases.check import Checks, CheckSpec

#: The type of the `mps_judge` fixture, a function that makes a check on its link.
Judge = Callable[[CheckSpec[Any], Any], None]


def checks_of(checks: Checks[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that parametrizes a test with each check, and adds the marker of the phase."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        each = pytest.mark.parametrize("check", checks, ids=[check.name for check in checks])
        marked: Callable[..., None] = getattr(pytest.mark, checks.phase.marker)(each(test))
        return marked

    return decorate
