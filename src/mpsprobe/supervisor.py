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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from mpsprobe import inflight, journal
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


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        returncode: as `subprocess` has it: negative for a signal.
        cause: why it was ended: `"timeout"` or `"interrupted"` (by our user); `""` when it ended by itself.
        signal: the user's signal (`"SIGINT"`), that which killed it (`"SIGABRT"`), or `"exit status 7"`.
    """

    returncode: int
    cause: str
    signal: str


class Child:
    """A child process that may crash or hang: its output goes to files, and all it started ends with it.

    Attributes:
        folder: where child.out and child.err are written; it must exist.
    """

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._command = list(command)
        self._environment = {
            **environment,
            "PYTHONFAULTHANDLER": "1",  # a crash writes the Python stack to stderr
            "PYTHONUNBUFFERED": "1",
        }
        self._stopped_by: signal.Signals | None = None

    def run(self, poll: Callable[[], float]) -> Ending:
        """Run it to its end.

        Args:
            poll: called all the time while it runs (not after its end); returns the seconds that it may still
                take, and below zero it is asked where it hangs (SIGUSR1) and ended.
        """
        with (
            (self.folder / "child.out").open("wb") as out,
            (self.folder / "child.err").open("wb") as err,
            self._signals(),
        ):
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,  # an interrupt at the terminal reaches this side alone
            )
            try:
                cause = self._follow(child, poll)
            finally:
                self._end(child)
        if cause == "interrupted":
            name = self._stopped_by.name if self._stopped_by else ""
        elif cause == "timeout":
            name = ""
        else:
            code = child.returncode
            name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Ending(child.returncode, cause, name)

    def last_words(self, lines: int) -> str:
        """The end of its stderr, without the harness's own frames."""
        text = (self.folder / "child.err").read_bytes().decode(errors="replace")
        told = [line for line in text.rstrip().splitlines() if not _HARNESS_FRAME.search(line)]
        return "\n".join(told[-lines:])

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

    def _follow(self, child: subprocess.Popen[bytes], poll: Callable[[], float]) -> str:
        """Wait until the child ends, is stopped or hangs; why it ended, or `""`."""
        while child.poll() is None:
            left = poll()
            if self._stopped_by is not None:
                return "interrupted"
            if left < 0:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGUSR1)  # write where you hang (the child has it registered)
                time.sleep(_LAST_WORDS_S)
                return "timeout"
            time.sleep(_POLL_S)
        return ""

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        """End the child and all that it started: they share its process group."""
        for number, patience in ((signal.SIGTERM, _LAST_WORDS_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=patience)


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
        self._flight = folder / inflight.FILE
        self._reading = journal.Reading()
        self._last_event = time.monotonic()
        self._offset = 0
        self._tail = b""

    def run(self, arguments: Sequence[str]) -> Run:
        """Run the suite with these pytest arguments, to its end or to the death of the child.

        Raises:
            HarnessError: the child ended before the run began (its last words are in the message).
        """
        self.journal.unlink(missing_ok=True)
        self._flight.unlink(missing_ok=True)
        child = Child(self.folder, self._command(arguments), self._environment())
        self._last_event = time.monotonic()
        ending = child.run(self._left)
        self._read()
        return self._account(child, ending)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        plugins = [word for name in _PLUGINS for word in ("-p", name)]
        suite = Path(__file__).parent / "suite"
        return [
            sys.executable, "-m", "pytest", "-c", str(suite / "suite.ini"), "--rootdir", str(suite), *plugins,
            # Captured output would die with the child: a Metal assertion is written just before the abort.
            "--capture=no", "--assert=plain", "-p", "no:cacheprovider", "--import-mode=importlib",
            "--mpsprobe-journal", str(self.journal), *arguments, str(suite),
        ]  # fmt: skip

    @staticmethod
    def _environment() -> dict[str, str]:
        environment = dict(os.environ)
        environment.pop("PYTEST_ADDOPTS", None)
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        return environment

    def _left(self) -> float:
        """Read the journal; seconds that the child may still take until the next event."""
        self._read()
        flying = self._reading.in_flight
        limit = flying.limit_s + _GRACE_S if flying else _IDLE_LIMIT_S
        return limit - (time.monotonic() - self._last_event)

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

    def _account(self, child: Child, ending: Ending) -> Run:
        """The run, with how it was cut off when it was."""
        if self._reading.run is None:
            raise HarnessError(
                f"the suite could not start: {child.last_words(8) or f'exit status {ending.returncode}'}",
                f"The child's output is in {self.folder}.",
            )
        if self._reading.run.ended:
            return journal.replay(self.journal)
        told = (inflight.last_ops(self._flight), child.last_words(_OUTPUT_LINES))
        output = "\n".join(words for words in told if words)
        return journal.replay(
            self.journal,
            Interruption(ending.cause or "crashed", ending.signal, check="", output=output),
        )
