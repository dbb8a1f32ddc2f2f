"""Whatever the child does, the report comes home and names the check in flight."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mpsprobe.errors import UsageError
from mpsprobe.run import Interruption, Phase, Run, Status, exit_code, journal
from mpsprobe.supervision.child import Child
from mpsprobe.supervision.supervisor import Supervisor, alone_in, is_running

CHECKOUT = Path(__file__).parents[2]

PROFILE = """
name = "faulty"
title = "A planted fault"
adapter = "tests.support.faulty:Faulty"
builder = "{builder}"
dtype = "float32"
attention = ""
sample = {{ at = "{at}", fault = "{fault}" }}
outputs = [{{ name = "y", shape = [1, 4], min = -100.0, max = 100.0 }}]
limits = {limits}
"""


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run the suite on the faulty target under the supervisor."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(
        fault: str = "",
        at: str = "",
        *,
        check: str = "",
        limits: str = "{}",
        builder: str = "tests.support.faulty:build",
        on_event: Callable[[journal.Event], None] = lambda _: None,
    ) -> Run:
        profile = tmp_path / "faulty.toml"
        profile.write_text(PROFILE.format(at=at, fault=fault, limits=limits, builder=builder))
        arguments = ["--mpsprobe-device", "cpu", "--mpsprobe-profile", str(profile)]
        arguments += ["-m", "not ops and not benchmark"]
        if check:
            monkeypatch.setenv("PLANTED_AT", check)
            monkeypatch.setenv("PLANTED_FAULT", fault)
            arguments += ["-p", "tests.support.killer"]
        return Supervisor(tmp_path, on_event).run(arguments)

    return run


def statuses(run: Run) -> dict[str, Status]:
    return {check.id: check.status for check in run.checks}


def interruption_of(run: Run) -> Interruption:
    assert run.interruption is not None
    return run.interruption


def test_a_sound_target_passes_all_six_phases(supervise: Callable[..., Run]) -> None:
    run = supervise()
    assert exit_code(run) == 0
    assert run.ended
    assert run.interruption is None
    assert {check.phase for check in run.checks} == set(list(Phase)[:6])
    assert statuses(run)["inference.parity"] is Status.PASS


@pytest.mark.parametrize(
    "check",
    [
        "availability.torch",
        "pins.requirements",
        "download.files",
        "transfer.load",
        "data.prepare",
        "inference.runs",
    ],
)
def test_a_kill_at_any_phase_leaves_a_report_that_names_it(supervise: Callable[..., Run], check: str) -> None:
    run = supervise("kill", check=check)
    phase = Phase(check.split(".")[0])
    assert statuses(run)[check] is Status.CRASHED
    assert (interruption_of(run).signal, interruption_of(run).check) == ("SIGKILL", check)
    assert exit_code(run) == 5
    later = [c for c in run.checks if c.phase.order > phase.order]
    assert all(c.status is Status.BLOCKED and c.blocked_by is phase for c in later)
    earlier = [c for c in run.checks if c.phase.order < phase.order]
    assert all(c.status not in (Status.BLOCKED, Status.CRASHED) for c in earlier)


@pytest.mark.parametrize(
    ("fault", "at", "check", "sign"),
    [
        ("abort", "load", "transfer.load", "SIGABRT"),
        ("segfault", "infer", "inference.runs", "SIGSEGV"),
        ("metal", "forward", "inference.runs", "SIGABRT"),
        ("exit", "prepare", "data.prepare", "exit status 7"),
    ],
)
def test_a_death_names_its_signal_and_last_output(
    supervise: Callable[..., Run], fault: str, at: str, check: str, sign: str
) -> None:
    run = supervise(fault, at)
    assert statuses(run)[check] is Status.CRASHED
    assert interruption_of(run).signal == sign
    if fault == "metal":
        assert "planted Metal assertion" in interruption_of(run).output
    if fault in ("abort", "segfault"):
        assert "faulty.py" in interruption_of(run).output, "the Python stack of the crash"


def test_a_hang_in_python_ends_at_the_phase_limit(supervise: Callable[..., Run]) -> None:
    run = supervise(
        "hang",
        "infer",
        limits="{ availability = 60, pins = 60, download = 60, transfer = 60, data = 60, inference = 2 }",
    )
    assert statuses(run)["inference.runs"] is Status.TIMEOUT
    assert exit_code(run) == 5
    assert statuses(run)["data.prepare"] is Status.PASS


@pytest.mark.slow
def test_a_hang_in_native_code_is_killed_and_says_where(supervise: Callable[..., Run]) -> None:
    run = supervise("native-hang", "infer", limits="{ inference = 2 }")
    assert statuses(run)["inference.runs"] is Status.TIMEOUT
    assert interruption_of(run).cause == "timeout"
    assert "faulty.py" in interruption_of(run).output, "the Python stack of the hang"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_still_gives_a_report(supervise: Callable[..., Run], number: signal.Signals) -> None:
    def interrupt(event: journal.Event) -> None:
        if isinstance(event, journal.CheckStarted) and event.id == "inference.runs":
            threading.Timer(0.3, os.kill, (os.getpid(), number)).start()

    run = supervise("hang", "infer", on_event=interrupt)
    assert interruption_of(run).cause == "interrupted"
    assert interruption_of(run).signal == number.name
    assert interruption_of(run).check == "inference.runs"
    assert statuses(run)["inference.runs"] is Status.UNKNOWN, "its user stopped it: that is no crash"
    assert number.name in next(c for c in run.checks if c.id == "inference.runs").message
    assert statuses(run)["transfer.load"] is Status.PASS
    assert exit_code(run) == 5


@pytest.mark.parametrize(
    ("fault", "at", "failing"),
    [
        ("raise", "load", "transfer.load"),
        ("system-exit", "infer", "inference.runs"),
        ("missing-op", "forward", "inference.runs"),
        ("wrong-weights", "load", "transfer.values"),
        ("double", "load", "transfer.dtypes"),
        ("stray", "load", "transfer.placement"),
        ("double", "prepare", "data.dtypes"),
        ("random", "prepare", "data.repeatable"),
        ("wrong", "forward", "inference.parity"),
        ("nan", "infer", "inference.finite"),
    ],
)
def test_a_fault_fails_its_own_check_and_no_harness(
    supervise: Callable[..., Run], fault: str, at: str, failing: str
) -> None:
    run = supervise(fault, at)
    assert statuses(run)[failing] is Status.FAIL
    assert Status.ERROR not in statuses(run).values()
    assert exit_code(run) == 1
    phase = Phase(failing.split(".")[0])
    assert all(c.status is not Status.BLOCKED for c in run.checks if c.phase.order < phase.order)
    failed = next(check for check in run.checks if check.id == failing)
    assert failed.message
    if fault in ("raise", "missing-op"):
        assert "faulty.py" in failed.message, "the line that raised"


def test_drift_is_a_warning(supervise: Callable[..., Run]) -> None:
    run = supervise("drift", "infer")
    assert statuses(run)["inference.repeatable"] is Status.WARN
    assert exit_code(run) == 0


@pytest.mark.parametrize("fault", ["keyboard-interrupt", "pytest-exit", "pytest-skip"])
def test_no_exception_of_a_target_ends_the_run(supervise: Callable[..., Run], fault: str) -> None:
    run = supervise(fault, "load")
    assert run.interruption is None
    assert statuses(run)["transfer.load"] is Status.FAIL
    assert exit_code(run) == 1


@pytest.mark.parametrize("fault", ["close-stdout", "fork-and-return"])
def test_every_check_is_answered_once(supervise: Callable[..., Run], fault: str) -> None:
    run = supervise(fault, "load")
    ids = [check.id for check in run.checks]
    assert len(ids) == len(set(ids))
    assert exit_code(run) == 0


def test_child_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom mpsprobe.supervision.child import Child\n"
        "code = 'import os, sys, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "Child(Path(sys.argv[1]), [sys.executable, '-c', code], {}).run(lambda: 600.0)\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    out = tmp_path / "child.out"
    wait_until(lambda: out.exists() and bool(out.read_text().strip()))
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not psutil.pid_exists(int(out.read_text())))


def test_second_run_in_a_folder_is_refused_with_its_owner(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(UsageError, match=f"process {os.getpid()}"), alone_in(tmp_path):
            pass
    assert not is_running(tmp_path)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_assertion_before_a_deep_stack_is_kept(tmp_path: Path) -> None:
    # Metal writes its assertion, Python then dumps one line for each frame of a deep model
    assertion = "/AppleInternal/.../MPSNDArray.mm:850: failed assertion `[MPSNDArray ...] Error: too small'"
    frames = [f'  File "/models/deep.py", line {line} in forward' for line in range(200)]
    other = ["Thread 0x1 (most recent call first):", '  File "threading.py", line 1 in wait']
    lines = [
        "loading",
        assertion,
        "Fatal Python error: Aborted",
        "",
        *other,
        "",
        "Current thread 0x2:",
        *frames,
    ]
    (tmp_path / "child.err").write_text("\n".join(lines))
    words = Child(tmp_path, [], {}).last_words(40).splitlines()
    assert len(words) <= 40
    assert assertion in words
    assert words.index(frames[0]) == words.index("Current thread 0x2:") + 1
