"""A comparison that crashes or hangs costs the child alone, and names the module in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.layers import supervised
from mpsprobe.layers.job import Found
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


def test_steps_and_the_answer_come_home(planted: MakeJob) -> None:
    steps: list[str] = []
    answer = supervised.run(planted("layer", stages=["forward"]), steps.append)
    assert isinstance(answer, Found)
    assert answer.divergence.first is not None
    assert answer.divergence.first.module == "blocks.2.down"
    assert "forward on float32 on the CPU" in steps


def test_what_the_target_raises_is_one_line(planted: MakeJob) -> None:
    with pytest.raises(supervised.JobFailedError, match="RuntimeError: planted") as caught:
        supervised.run(planted("raise", local=False), lambda _: None)
    assert caught.value.exit_code == 3
