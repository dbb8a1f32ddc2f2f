"""A child process that may crash or hang: its limits, its signals, and all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

#: How long the child may take to write where it hangs, and to end when asked.
_LAST_WORDS_S = 1.0
_POLL_S = 0.05

#: Lines of a dumped Python stack that are the harness's and not the target's; with them, forty lines of pytest
#: would stand where the target's own should.
_HARNESS_FRAME = re.compile(
    r'File ".*[/\\](_pytest|pluggy|pytest)[/\\]|File "<frozen runpy>|^Extension modules:'
)


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
