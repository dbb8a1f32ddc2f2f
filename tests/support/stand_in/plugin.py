"""A pytest plugin for a child process with the stand-in: no test of `predict` may call one of its kernels.

`emulate` is refused on a build with MPS, so tests of it are skipped here; everything else counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mpsprobe.errors import UnsupportedInstallError


def called() -> int:
    """Return how many of the stand-in's kernels and fallbacks have run, and what its allocator gave."""
    counters = torch._stand_in  # type: ignore[attr-defined]
    return int(counters.stand_in_kernels() + counters.stand_in_fallbacks() + counters.stand_in_allocations())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = called()
    try:
        yield
    except UnsupportedInstallError as problem:
        if "emulated device does not run" in str(problem):
            pytest.skip("emulate is refused on a build with MPS")
        raise
    assert called() == before, f"{item.nodeid} reached the stand-in's kernels or its allocator"
