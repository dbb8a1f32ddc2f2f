"""A comparison that crashes or hangs costs the child alone, and names the module in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.layers import supervised
from tests.layers.conftest import MakeJob

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT), prepend=":")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_an_abort_names_its_module(planted: MakeJob) -> None:
    with pytest.raises(supervised.JobDiedError, match="SIGABRT") as caught:
        supervised.run(planted("abort"), lambda _: None)
    assert "in module blocks.2.up (forward on cpu)" in caught.value.what
    assert "planted.py" in caught.value.hint, "the Python stack of the crash"
    assert caught.value.exit_code == 5


def test_a_hang_ends_at_its_limit(planted: MakeJob) -> None:
    with pytest.raises(supervised.JobDiedError, match="limit of 3 s") as caught:
        supervised.run(planted("hang", limit=3), lambda _: None)
    assert "in module blocks.2.up" in caught.value.what
