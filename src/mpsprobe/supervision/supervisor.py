"""Run the suite in a child process, and return its report whatever happens to the child.

The child writes every check to the journal as it ends. The supervisor follows the journal, enforces the limits,
compares the answers with the plan, and describes the end: a signal, a hang, an exit, or an interrupt by the user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mpsprobe import launch
from mpsprobe.errors import HarnessError, MpsprobeError, UsageError
from mpsprobe.run import Interruption, Run, journal
from mpsprobe.supervision import surroundings
from mpsprobe.supervision.child import Child, Ending
from mpsprobe.trace import flight, profile_log

#: Seconds beyond a check's own limit before the child is killed; pytest-timeout inside the child acts first.
_GRACE_S = 15.0
#: Seconds that the child has between checks (start-up, collection, teardown).
_IDLE_LIMIT_S = 300.0
_OUTPUT_LINES = 40

#: The only plugins of the child, so that no other plugin of the environment can break a run.
_PLUGINS = ("mpsprobe.suite.plugin", "pytest_timeout", "pytest_benchmark.plugin")
_LOCK = ".mpsprobe.lock"
#: pytest's exit code for a usage error, such as a wrong value of an option.
_PYTEST_USAGE = 4


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder of reports against other runs while the context lasts, by a lock file in it.

    Raises:
        UsageError: Another run writes there (the message names it and its start), or the folder cannot be
            written.
    """
    path = folder / _LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise UsageError(
            f"{folder}: cannot be written: {problem.strerror}.", "Use another --output."
        ) from problem
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"{folder}: another run writes there ({owner}).", "Wait for it, or use another --output."
            ) from None
        try:
            os.ftruncate(handle, 0)
            # 4 kB, so that a full disk is noticed now and not after an hour
            os.pwrite(handle, f"process {os.getpid()}, since {journal.utc_now()}".ljust(4096).encode(), 0)
        except OSError as problem:
            raise UsageError(
                f"{folder}: cannot be written: {problem.strerror}.", "Use another --output."
            ) from problem
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)


def is_running(folder: Path) -> bool:
    """Return whether a run is writing into a folder of reports."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


class NotBegunError(MpsprobeError):
    """The user stopped a run before its first check, so there is nothing to report."""

    exit_code = 130


class Supervisor:
    """Run the suite in a child process, and follow its journal.

    Attributes:
        folder: The existing folder in which the journal, child.out and child.err are written.
        on_event: A function that is called with every event of the journal as it is read.
        journal: The path of the journal.
    """

    def __init__(self, folder: Path, on_event: Callable[[journal.Event], None]) -> None:
        self.folder = folder
        self.on_event = on_event
        self.journal = folder / "journal.jsonl"
        self._flight = folder / flight.FILE
        self._reading = journal.Reading()
        self._last_event = time.monotonic()
        self._offset = 0
        self._tail = b""

    def run(self, arguments: Sequence[str]) -> Run:
        """Run the suite with these pytest arguments until it ends or the child dies, and return the run.

        Raises:
            NotBegunError: The user stopped it before the run began.
            UsageError: An argument is refused by pytest.
            SurroundingsError: A package or a variable of this environment kept it from starting.
            HarnessError: The child ended before the run began; the message holds its last lines of output.
        """
        self.journal.unlink(missing_ok=True)
        self._flight.unlink(missing_ok=True)
        environment = launch.environment(trusted="--mpsprobe-trust-remote-code" in arguments)
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        child = Child(self.folder, self._command(arguments), environment)
        self._last_event = time.monotonic()
        ending = child.run(self._left)
        self._read()
        run = self._account(child, ending)
        if profile_log.VARIABLE in environment:
            run.logged_fallbacks = profile_log.read(self.folder / "child.err")
        return run

    def _command(self, arguments: Sequence[str]) -> list[str]:
        plugins = [word for name in _PLUGINS for word in ("-p", name)]
        suite = Path(__file__).parents[1] / "suite"
        return launch.python(
            "pytest", "-c", str(suite / "suite.ini"), "--rootdir", str(suite), *plugins,
            # Captured output would die with the child: a Metal assertion is written just before the abort.
            "--capture=no", "--assert=plain", "-p", "no:cacheprovider", "--import-mode=importlib",
            "--mpsprobe-journal", str(self.journal), *arguments, str(suite),
        )  # fmt: skip

    def _left(self) -> float:
        """Read the journal, and return the seconds that the child has until the next event."""
        self._read()
        flying = self._reading.in_flight
        limit = flying.limit_s + _GRACE_S if flying else _IDLE_LIMIT_S
        return limit - (time.monotonic() - self._last_event)

    def _read(self) -> None:
        """Read the events that were added to the journal since the last call, and pass them to `on_event`."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            file.seek(self._offset)
            data = self._tail + file.read()
            self._offset = file.tell()
        *lines, self._tail = data.split(b"\n")
        for line in lines:
            event = self._reading.take_line(line)
            if event is not None:
                self._last_event = time.monotonic()
                self.on_event(event)

    def _account(self, child: Child, ending: Ending) -> Run:
        """Return the run that the journal holds, with its interruption if the child ended before the run was whole."""
        if self._reading.run is None:
            raise self._not_started(child, ending)
        if self._reading.whole:
            return journal.replay(self.journal)
        parts = (flight.last_ops(self._flight), child.last_words(_OUTPUT_LINES))
        output = "\n".join(text for text in parts if text)
        # pytest's exit codes mean nothing to a reader, and a run that ended in order has no signal
        named = "" if self._reading.run.ended and ending.returncode >= 0 else ending.signal
        return journal.replay(
            self.journal, Interruption(ending.cause or "crashed", named, check="", output=output)
        )

    def _not_started(self, child: Child, ending: Ending) -> Exception:
        words = child.last_words(8) or child.last_words(8, "out")
        if ending.cause == "interrupted":
            return NotBegunError(f"Stopped by {ending.signal} before the run began: nothing was checked.")
        refused = [line for line in words.splitlines() if line.startswith("ERROR: ")]
        if ending.returncode == _PYTEST_USAGE and refused:
            return UsageError(refused[-1].removeprefix("ERROR: "))
        said = f"{child.last_words(60)}\n{child.last_words(200, 'out')}"  # imports fail on stdout
        return surroundings.fault(said) or HarnessError(
            f"the suite could not start: {words or f'exit status {ending.returncode}'}",
            f"The child's output is in {self.folder}.",
        )
