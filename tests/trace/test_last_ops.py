"""A crash, a hang or a kill in the target's code names the op in flight, and its module where it has one."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psutil
import pytest

from mpsprobe.run import Status, journal
from mpsprobe.supervision.supervisor import Supervisor
from mpsprobe.trace.flight import FILE, FlightRecorder, last_ops
from tests.supervision.test_supervisor import statuses, supervise  # noqa: F401 - a fixture


def test_no_file_and_a_foreign_file_say_nothing(tmp_path: Path) -> None:
    assert last_ops(tmp_path / "nothing") == ""
    (tmp_path / "other").write_bytes(b"something else")
    assert last_ops(tmp_path / "other") == ""


def test_the_op_that_did_not_return_comes_first(tmp_path: Path) -> None:
    with FlightRecorder(tmp_path / "flight.bin") as flight:
        assert last_ops(flight.path) == ""
        flight.name(0, "aten::mm", "float32[2, 3]", "model.layers.0", "model.py:7")
        flight.name(1, "aten::relu", "float32[2]", "", "")
        flight.end(flight.begin(0), 0)
        assert last_ops(flight.path).startswith("The last op, which had returned: aten::mm")
        flight.begin(1)
        told = last_ops(flight.path).splitlines()
    assert told[0] == "Op in flight: aten::relu(float32[2])"
    assert "aten::mm(float32[2, 3]) in model.layers.0 model.py:7" in told[-2]


@pytest.mark.parametrize("at", ["load", "prepare", "forward", "infer"])
def test_a_crash_names_the_op(supervise, at: str) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    run = supervise("abort-in-op", at)
    assert run.interruption.signal == "SIGABRT"
    crashed = next(check for check in run.checks if check.status is Status.CRASHED)
    assert crashed.output.startswith("Op in flight: faulty::op(float32[2, 3])")
    assert "faulty.py" in crashed.output.splitlines()[0], "the line that called it"


def test_a_hang_names_the_op(supervise) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    run = supervise("hang-in-op", "infer", limits="{ inference = 3 }")
    late = next(check for check in run.checks if check.status is Status.TIMEOUT)
    assert late.output.startswith("Stopped in or after: faulty::op(float32[2, 3])")


def test_an_interrupt_names_the_op(supervise) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    def interrupt(event: journal.Event) -> None:
        if isinstance(event, journal.CheckStarted) and event.id == "inference.runs":
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    run = supervise("hang-in-op", "infer", on_event=interrupt)
    assert run.interruption.cause == "interrupted"
    assert run.interruption.output.startswith("Op in flight: faulty::op")


def test_an_error_of_the_target_leaves_no_flight_behind(supervise, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # noqa: F811
    run = supervise("raise", "infer")
    assert statuses(run)["inference.runs"] is Status.FAIL
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_inference_names_op_and_line(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The default target on the virtual device, killed from without while it infers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def kill_children() -> None:
        for child in psutil.Process().children():
            child.kill()

    def kill(event: journal.Event) -> None:
        if isinstance(event, journal.CheckStarted) and event.id == "inference.runs":
            threading.Timer(1.0, kill_children).start()

    run = Supervisor(tmp_path, kill).run(["--mpsprobe-device", "emulated", "-m", "not ops and not benchmark"])
    assert run.interruption is not None
    assert (run.interruption.signal, run.interruption.check) == ("SIGKILL", "inference.runs")
    lines = run.interruption.output.splitlines()
    assert "aten::" in lines[0]
    assert sum(".py:" in line for line in lines) >= 3, "lines of the model's code"
