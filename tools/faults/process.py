"""Signals to the command, its sudden end, and what remains of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.case import CRASHED, FAILED, INTERRUPTED, PASSED, Case, Outcome
from faults.making import target

PROMISE = (
    "However the command ends, no process of it lives on, and what was checked until then can be reported."
)

_ARGV = ("run", "target.py", "--device", "cpu", "--phase", "4")
_SLOW = target(load="import time\nopen('loading', 'w').close()\ntime.sleep(600)")
#: A loop in C that checks no signals and holds the GIL.
_STUCK = target(
    load="import collections, itertools\nopen('loading', 'w').close()\ncollections.deque(itertools.repeat(0), maxlen=0)"
)
_FAMILY = target(
    load="import subprocess, time\nsubprocess.Popen(['sleep', '600'])\nopen('loading', 'w').close()\ntime.sleep(600)"
)


def _wait_for(process: subprocess.Popen[bytes], path: Path, limit_s: float = 120) -> bool:
    until = time.monotonic() + limit_s
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    return path.exists()


def _send(*signals: signal.Signals, pause_s: float = 0.2) -> Callable[[subprocess.Popen[bytes], Path], None]:
    """Return a function that sends signals one after the other once the target loads.

    Args:
        *signals: The signals.
        pause_s: The pause after each in seconds.
    """

    def during(process: subprocess.Popen[bytes], folder: Path) -> None:
        if _wait_for(process, folder / "loading"):
            for number in signals:
                if process.poll() is None:
                    process.send_signal(number)
                time.sleep(pause_s)

    return during


def _early(number: signal.Signals, after_s: float) -> Callable[[subprocess.Popen[bytes], Path], None]:
    def during(process: subprocess.Popen[bytes], _folder: Path) -> None:
        time.sleep(after_s)
        if process.poll() is None:
            process.send_signal(number)

    return during


def _while_drawing(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], Path], None]:
    """Return a function that sends a signal every 20 ms from the end of the run to the end of the command."""

    def during(process: subprocess.Popen[bytes], folder: Path) -> None:
        journal = folder / "out" / "journal.jsonl"
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if journal.is_file() and b'"type":"end"' in journal.read_bytes()[-200:]:
                process.send_signal(number)
            time.sleep(0.02)

    return during


def _reported(outcome: Outcome) -> str:
    return "" if outcome.run else "there is no report"


def _from_journal(outcome: Outcome) -> str:
    """Return what is wrong unless `mpsprobe report` makes the report of the journal after SIGKILL of the command."""
    command = [sys.executable, "-m", "mpsprobe", "report", "out"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run(
        command, cwd=outcome.folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        return f"report ended with status {done.returncode}: {done.stderr[:200]}"
    return "" if (outcome.folder / "out" / "report.html").is_file() else "report wrote nothing"


def cases() -> Iterator[Case]:
    """Yield runs that get signals or are killed at several moments."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        for name, prepare in (("slow", _SLOW), ("stuck", _STUCK), ("family", _FAMILY)):
            yield Case(f"{number.name}-{name}", _ARGV, {CRASHED}, "interrupted", prepare=prepare, during=_send(number),
                       check=_reported, short=name == "slow" and number is signal.SIGTERM)  # fmt: skip
        yield Case(
            f"{number.name}-twice",
            _ARGV,
            {CRASHED},
            prepare=_SLOW,
            during=_send(number, number),
            check=_reported,
        )
        yield Case(
            f"{number.name}-often",
            _ARGV,
            {CRASHED},
            prepare=_SLOW,
            during=_send(*[number] * 8, pause_s=0.1),
            check=_reported,
        )
    yield Case(
        "SIGINT-then-SIGTERM",
        _ARGV,
        {CRASHED},
        prepare=_SLOW,
        during=_send(signal.SIGINT, signal.SIGTERM),
        check=_reported,
    )
    for name, prepare in (("slow", _SLOW), ("stuck", _STUCK), ("family", _FAMILY)):
        yield Case(f"SIGKILL-{name}", _ARGV, {-signal.SIGKILL}, prepare=prepare, during=_send(signal.SIGKILL),
                   check=_from_journal, lists_checks=False, short=name == "slow")  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        yield Case(f"{number.name}-while-drawing", _ARGV, {PASSED}, "report: ", prepare=target(), check=_reported,
                   during=_while_drawing(number), short=number is signal.SIGTERM)  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM):
        for after_s in (1.0, 2.0, 4.0):  # earlier Python itself has not started
            ends = {CRASHED, INTERRUPTED, -number}
            yield Case(
                f"early-{number.name}-{after_s:g}",
                _ARGV,
                ends,
                prepare=_SLOW,
                during=_both(number, after_s),
                lists_checks=False,
            )
    for name, body in (("child-sigint", "SIGINT"), ("child-sighup", "SIGHUP"), ("child-sigquit", "SIGQUIT")):
        code = f"os.kill(os.getpid(), signal.{body})\nimport time\ntime.sleep(1)\nreturn torch.nn.Linear(4, 2).to(device)"
        yield Case(name, _ARGV, {CRASHED, FAILED, PASSED}, prepare=target(load=code), check=_reported)


def _both(number: signal.Signals, after_s: float) -> Callable[[subprocess.Popen[bytes], Path], None]:
    """Return a function that sends a signal after a delay, and again when the target loads, so that the case ends."""
    early, late = _early(number, after_s), _send(number)

    def during(process: subprocess.Popen[bytes], folder: Path) -> None:
        early(process, folder)
        late(process, folder)

    return during
