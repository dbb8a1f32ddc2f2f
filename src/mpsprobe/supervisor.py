"""Runs the suite in a child process, and brings the report home whatever happens to the child.

The child writes every check to the journal as it ends; this side follows the journal, enforces the limits,
and words the end: a signal, a hang, an exit, or a user's own interrupt.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from mpsprobe import journal
from mpsprobe.errors import HarnessError
from mpsprobe.run import Interruption, Run

#: Seconds beyond a check's own limit before the child is killed: pytest-timeout, inside, comes first.
_GRACE_S = 15.0
#: Seconds the child may take between checks (start-up, collection, teardown).
_IDLE_LIMIT_S = 300.0
#: How long the child may take to write where it hangs, and to end when asked.
_LAST_WORDS_S = 1.0
_POLL_S = 0.05
_OUTPUT_LINES = 40

#: Lines of a dumped Python stack that are the harness's and not the target's; with them, forty lines of pytest
#: would stand where the target's own should.
_HARNESS_FRAME = re.compile(
    r'File ".*[/\\](_pytest|pluggy|pytest)[/\\]|File "<frozen runpy>|^Extension modules:'
)

#: Plugins of the child: these and no others, so that another plugin of the environment cannot break a run.
_PLUGINS = ("mpsprobe.plugin", "pytest_timeout", "pytest_benchmark.plugin")


class Supervisor:
    """One supervised run of the suite.

    Attributes:
        folder: where journal, child.out and child.err are written; it must exist.
        on_event: told of every journal event as it is read.
    """

    def __init__(self, folder: Path, on_event: Callable[[journal.Event], None]) -> None:
        self.folder = folder
        self.on_event = on_event
        self.journal = folder / "journal.jsonl"
        self._reading = journal.Reading()
        self._stopped_by: signal.Signals | None = None
        self._last_event = time.monotonic()
        self._offset = 0
        self._tail = b""

    def run(self, arguments: Sequence[str]) -> Run:
        """Run the suite with these pytest arguments, to its end or to the death of the child.

        Raises:
            HarnessError: the child ended before the run began (its last words are in the message).
        """
        self.journal.unlink(missing_ok=True)
        with (
            (self.folder / "child.out").open("wb") as out,
            (self.folder / "child.err").open("wb") as err,
            self._signals(),
        ):
            child = subprocess.Popen(
                self._command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment(),
                start_new_session=True,  # an interrupt at the terminal reaches this side alone
            )
            try:
                cause = self._follow(child)
            finally:
                self._end(child)
        self._read()
        return self._account(child.returncode, cause)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        plugins = [word for name in _PLUGINS for word in ("-p", name)]
        suite = Path(__file__).parent / "suite"
        return [
            sys.executable, "-m", "pytest", "-c", str(suite / "suite.ini"), "--rootdir", str(suite), *plugins,
            # Captured output would die with the child: a Metal assertion is written just before the abort.
            "--capture=no", "-p", "no:cacheprovider", "--import-mode=importlib",
            "--mpsprobe-journal", str(self.journal), *arguments, str(suite),
        ]  # fmt: skip

    @staticmethod
    def _environment() -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop("PYTEST_ADDOPTS", None)
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment["PYTHONFAULTHANDLER"] = "1"  # a crash writes the Python stack to stderr
        environment["PYTHONUNBUFFERED"] = "1"
        return environment

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """While the child runs, an interrupt of ours ends it in order instead of ending us."""

        def stop(number: int, _frame: FrameType | None) -> None:
            self._stopped_by = signal.Signals(number)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _follow(self, child: subprocess.Popen[bytes]) -> str:
        """Read the journal until the child ends, is stopped or hangs; why it ended, or `""`."""
        self._last_event = time.monotonic()
        while child.poll() is None:
            self._read()
            if self._stopped_by is not None:
                return "interrupted"
            flying = self._reading.in_flight
            limit = flying.limit_s + _GRACE_S if flying else _IDLE_LIMIT_S
            if time.monotonic() - self._last_event > limit:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGUSR1)  # write where you hang (the plugin has it registered)
                time.sleep(_LAST_WORDS_S)
                return "timeout"
            time.sleep(_POLL_S)
        return ""

    def _read(self) -> None:
        """Fold in what the journal has gained."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(self._offset)
            data = self._tail + file.read()
            self._offset = file.tell()
        *lines, self._tail = data.split(b"\n")
        for line in lines:
            event = journal.decode(line)
            self._reading.take(event)
            self._last_event = time.monotonic()
            self.on_event(event)

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        """End the child and all that it started: they share its process group."""
        for number, patience in ((signal.SIGTERM, _LAST_WORDS_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=patience)

    def _account(self, returncode: int, cause: str) -> Run:
        """The run, with how it was cut off when it was."""
        if self._reading.run is None:
            raise HarnessError(
                f"the suite could not start: {self._last_words(8) or f'exit status {returncode}'}",
                f"The child's output is in {self.folder}.",
            )
        if self._reading.run.ended:
            return journal.replay(self.journal)
        if cause == "interrupted":
            name = self._stopped_by.name if self._stopped_by else ""
        elif cause == "timeout":
            name = ""
        else:
            cause = "crashed"
            name = signal.Signals(-returncode).name if returncode < 0 else f"exit status {returncode}"
        return journal.replay(
            self.journal, Interruption(cause, name, check="", output=self._last_words(_OUTPUT_LINES))
        )

    def _last_words(self, lines: int) -> str:
        """The end of the child's stderr (pytest's usage errors are there too)."""
        text = (self.folder / "child.err").read_bytes().decode(errors="replace")
        told = [line for line in text.rstrip().splitlines() if not _HARNESS_FRAME.search(line)]
        return "\n".join(told[-lines:])
