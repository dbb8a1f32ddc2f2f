"""Whatever an op does to its process, its own answer says so and no other answer is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mpsprobe.errors import HarnessError
from mpsprobe.ops.isolation import Isolation
from mpsprobe.ops.protocol import Replay, ReplayOutcome, Request, Setup
from mpsprobe.run import OpUse, TensorMeta

pytestmark = pytest.mark.own_process

PACKAGES = Path(__file__).parents[1] / "support" / "packages"
SETUP = Setup("emulated", "", "15.5", 64, False, 1, 4 << 30)
#: Planted op -> what must become of it, and what must be said.
FAULTS = {
    "abort": (ReplayOutcome.CRASHED, "SIGABRT"),
    "segfault": (ReplayOutcome.CRASHED, "SIGSEGV"),
    "kill": (ReplayOutcome.CRASHED, "SIGKILL"),
    "quit": (ReplayOutcome.CRASHED, "exit status 7"),
    "metal": (ReplayOutcome.CRASHED, "planted Metal assertion"),
    "loop": (ReplayOutcome.HANGS, "planted.py"),
    "native_loop": (ReplayOutcome.HANGS, "planted.py"),
    "allocate": (ReplayOutcome.RAISES, "2.1 GB"),
    "system_exit": (ReplayOutcome.RAISES, "SystemExit: 3"),
    "interrupt": (ReplayOutcome.RAISES, "KeyboardInterrupt"),
    "raises": (ReplayOutcome.RAISES, "RuntimeError: planted: not on MPS"),
    "missing": (ReplayOutcome.RAISES, "'planted::missing' is not implemented for MPS"),
    "surrogate": (ReplayOutcome.RAISES, "planted ? on MPS"),
    "stderr": (ReplayOutcome.NATIVE, ""),
    "gpu_fault": (ReplayOutcome.FAULT, "command buffer exited with error status"),
    "nan": (ReplayOutcome.NAN, "1 of 20 elements are not finite"),
    "wrong": (ReplayOutcome.WRONG, "20 of 20 elements differ by up to 0.5"),
    "one_wrong": (ReplayOutcome.WRONG, "1 of 20 elements differ by up to 0.5"),
    "zeros": (ReplayOutcome.WRONG, "20 of 20"),
    "shape": (ReplayOutcome.WRONG, "shapes (20,) instead of (4, 5)"),
    "varies": (ReplayOutcome.VARIES, "two runs"),
}
#: Those that cost the worker its life.
DEADLY = {
    name for name, (outcome, _) in FAULTS.items() if outcome in (ReplayOutcome.CRASHED, ReplayOutcome.HANGS)
} | {"allocate"}


def planted(name: str) -> OpUse:
    tensor = TensorMeta("float32", (4, 5), (5, 1), "mps:0")
    return OpUse(op=f"planted::{name}", inputs=[tensor], outputs=[tensor])


@pytest.fixture
def isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Isolation]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(PACKAGES))
    with Isolation(SETUP, op_limit_s=30) as made:
        yield made


def ask(isolation: Isolation, name: str) -> Replay:
    isolation.op_limit_s = 3.0 if "loop" in name else 60.0
    return isolation.replay(Request(planted(name), 0))


def check(name: str, answer: Replay) -> None:
    outcome, says = FAULTS[name]
    assert answer.outcome is outcome, answer
    assert says.lower() in f"{answer.message} {answer.signal} {answer.output}".lower(), answer
    if name in DEADLY - {"allocate"}:
        assert f"planted::{name}" in answer.message, "the op is named"
        assert answer.signal


def test_one_worker_answers_all_that_leaves_it_alive(isolation: Isolation) -> None:
    for name in sorted(set(FAULTS) - DEADLY):
        check(name, ask(isolation, name))
    assert isolation.started == 1


def test_a_death_costs_one_answer_and_one_worker(isolation: Isolation) -> None:
    for number, name in enumerate(("sound", "metal", "sound", "native_loop", "sound")):
        if name == "sound":
            assert ask(isolation, name).outcome is ReplayOutcome.NATIVE
            assert isolation.started == 1 + number // 2
        else:
            check(name, ask(isolation, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(DEADLY))
def test_every_deadly_fault(isolation: Isolation, name: str) -> None:
    check(name, ask(isolation, name))
    assert ask(isolation, "sound").outcome is ReplayOutcome.NATIVE


def test_a_worker_that_grows_is_ended_where_no_limit_can_be_set(tmp_path: Path) -> None:
    """macOS and CUDA: the parent watches. A worker that answers its setup and then grows stands for an op."""
    script = tmp_path / "grows.py"
    script.write_text(
        "import sys\n"
        "from mpsprobe.ops import protocol\n"
        "from mpsprobe.ops.protocol import Ready, Setup\n"
        "given, taken = int(sys.argv[1]), int(sys.argv[2])\n"
        "protocol.receive(given, Setup)\n"
        "protocol.send(taken, Ready())\n"
        "kept = []\n"
        "while True: kept.append(bytearray(1 << 22))\n"
    )
    small = Setup("mps", "", None, None, False, 1, 1 << 28)
    with Isolation(small, op_limit_s=60, command=[sys.executable, str(script)]) as isolation:
        answer = isolation.replay(Request(planted("sound"), 0))
    assert answer.outcome is ReplayOutcome.CRASHED
    assert "holds more than" in answer.message


def test_a_worker_that_cannot_start_is_our_error() -> None:
    with (
        Isolation(SETUP, command=[sys.executable, "-c", "raise SystemExit('no torch here')"]) as isolation,
        pytest.raises(HarnessError, match="no torch here"),
    ):
        isolation.replay(Request(planted("sound"), 0))


def test_a_device_that_is_not_there_is_said() -> None:
    wrong = Setup("nothing", "", None, None, False, 1, 1 << 30)
    with Isolation(wrong) as isolation, pytest.raises(HarnessError, match="nothing"):
        isolation.replay(Request(planted("sound"), 0))


def test_nothing_is_left_running(isolation: Isolation) -> None:
    ask(isolation, "sound")
    # multiprocessing's own resource tracker stays, once something has started it.
    children = [c for c in psutil.Process().children() if "resource_tracker" not in " ".join(c.cmdline())]
    isolation.close()
    assert all(not child.is_running() for child in children)


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Also when the parent is killed while an op of the worker does not return."""
    code = (
        "import sys\n"
        f"sys.path[:0] = [{str(PACKAGES)!r}, {str(Path(__file__).parents[2])!r}]\n"
        "from tests.ops.test_isolation import *\n"
        "isolation = Isolation(SETUP, op_limit_s=600)\n"
        "isolation.replay(Request(planted('sound'), 0))\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "isolation.replay(Request(planted('loop'), 0))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 30
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.2)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
