"""A pytest plugin for the child: commits a fault when a given check is about to be made."""

from __future__ import annotations

import os

import pytest

from mpsprobe.suite.plugin import spec_of
from tests.support.faulty import FAULTS


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    spec = spec_of(item)
    if spec is not None and spec.id == os.environ.get("PLANTED_AT"):
        FAULTS[os.environ["PLANTED_FAULT"]]()
