"""Runs the suite in a child process, and brings the report home whatever happens to the child.

The child writes every check to the journal as it ends; this side follows the journal, enforces the limits,
and words the end: a signal, a hang, an exit, or a user's own interrupt.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mpsprobe.errors import HarnessError
from mpsprobe.run import Interruption, Run, journal
from mpsprobe.supervision.child import Child, Ending
from mpsprobe.trace import last_ops

#: Seconds beyond a check's own limit before the child is killed: pytest-timeout, inside, comes first.
_GRACE_S = 15.0
#: Seconds the child may take between checks (start-up, collection, teardown).
_IDLE_LIMIT_S = 300.0
_OUTPUT_LINES = 40

#: Plugins of the child: these and no others, so that another plugin of the environment cannot break a run.
_PLUGINS = ("mpsprobe.suite.plugin", "pytest_timeout", "pytest_benchmark.plugin")


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
        self._flight = folder / last_ops.FILE
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
        suite = Path(__file__).parents[1] / "suite"
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
        told = (last_ops.last_ops(self._flight), child.last_words(_OUTPUT_LINES))
        output = "\n".join(words for words in told if words)
        return journal.replay(
            self.journal,
            Interruption(ending.cause or "crashed", ending.signal, check="", output=output),
        )
