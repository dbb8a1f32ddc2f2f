"""Two commands at once, and readers while a report is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.case import FAILED, PASSED, USAGE, Case, Outcome
from faults.making import document, target

PROMISE = (
    "Two runs never mix; the former report stays readable until the next is whole, and never passes for it."
)

_ARGV = ("run", "target.py", "--device", "cpu", "--phase", "3")
_ENV = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


def _start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mpsprobe", *argv], cwd=folder, env=_ENV, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _second(output: str) -> Callable[[subprocess.Popen[bytes], Path], None]:
    """Return a function that starts a second run once the first has locked its folder, and writes `second.json`.

    The file holds the second run's exit code and output.

    Args:
        output: The `--output` of the second run.
    """

    def during(process: subprocess.Popen[bytes], folder: Path) -> None:
        until = time.monotonic() + 60
        while (
            not (folder / "out" / ".mpsprobe.lock").exists()
            and process.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        other = _start(folder, *_ARGV, "--output", output)
        text, _ = other.communicate(timeout=170)
        (folder / "second.json").write_text(json.dumps([other.returncode, text.decode(errors="replace")]))

    return during


def _refused(outcome: Outcome) -> str:
    code, text = json.loads((outcome.folder / "second.json").read_text())
    return (
        "" if code == USAGE and "another run" in text else f"the second run ended with {code}: {text[:100]}"
    )


def _both(outcome: Outcome) -> str:
    code, text = json.loads((outcome.folder / "second.json").read_text())
    return "" if code == PASSED else f"the second run ended with {code}: {text[:100]}"


def _with_former(**bodies: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        target(**bodies)(folder)
        (folder / "out").mkdir()
        (folder / "out" / "run.json").write_text(json.dumps(document(id="20200101T000000Z-0000")))
        (folder / "out" / "report.html").write_text("the former report")
        (folder / "out" / "journal.jsonl").write_text("torn {")

    return prepare


def _no_former(outcome: Outcome) -> str:
    page = outcome.folder / "out" / "report.html"
    return (
        "the former report is still in its place"
        if page.is_file() and page.read_text() == "the former report"
        else ""
    )


def _readable(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Read the earlier report repeatedly until the run has ended."""
    while process.poll() is None:
        json.loads((folder / "out" / "run.json").read_text())
        assert (folder / "out" / "report.html").stat().st_size
        time.sleep(0.01)


def cases() -> Iterator[Case]:
    """Yield cases with two runs at once, an earlier report in the folder, or a stale lock."""
    slow = target(load="return torch.nn.Linear(4, 2)", top="import time; time.sleep(15)")
    yield Case(
        "same-folder", _ARGV, {PASSED}, prepare=slow, during=_second("out"), check=_refused, short=True
    )
    yield Case("other-folder", _ARGV, {PASSED}, prepare=target(), during=_second("other"), check=_both)
    yield Case("former-report", _ARGV, {PASSED}, prepare=_with_former(), check=_no_former)
    yield Case(
        "former-report-fails", _ARGV, {FAILED}, prepare=_with_former(top="raise KeyError"), check=_no_former
    )
    yield Case("former-readable", _ARGV, {PASSED}, prepare=_with_former(), during=_readable)
    broken = {"PYTHONPATH": "{folder}/site-packages:" + str(Path(__file__).parents[2] / "src")}

    def cannot_start(folder: Path) -> None:
        _with_former()(folder)
        (folder / "site-packages" / "pluggy").mkdir(parents=True)
        (folder / "site-packages" / "pluggy" / "__init__.py").touch()

    yield Case(
        "cannot-start",
        _ARGV,
        {3},
        prepare=cannot_start,
        env=broken,
        check=_no_former,
        lists_checks=False,
        short=True,
    )
    stale = target()

    def stale_lock(folder: Path) -> None:
        stale(folder)
        (folder / "out").mkdir()
        (folder / "out" / ".mpsprobe.lock").write_text("process 1, since long ago")

    yield Case("stale-lock", _ARGV, {PASSED}, prepare=stale_lock)
