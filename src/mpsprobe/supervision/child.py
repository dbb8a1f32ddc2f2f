"""A child process that may crash or hang, with its limits, its signals and everything that it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

#: Seconds that the child has to write where it hangs, and to end on request.
_LAST_WORDS_S = 1.0
_POLL_S = 0.05

#: Signals of a user or of a system that shuts down. Each ends the run in order, and the report is still written.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

#: Frames of a dumped Python stack that belong to the harness. With them, forty lines of pytest
#: would hide those of the target.
_HARNESS_FRAME = re.compile(
    r'File ".*[/\\](_pytest|pluggy|pytest)[/\\]|File "<frozen runpy>|^Extension modules:'
)
#: The beginning of faulthandler's output, and of the stack of the thread that died.
_FATAL, _CURRENT = "Fatal Python error:", "Current thread"

#: This program waits for the end of a pipe whose other end only the supervisor holds, and then ends the child's
#: process group. So no child outlives a supervisor that was killed, whatever the child is doing and on every system.
_GUARD = """
import os, signal, sys
sys.stdin.buffer.read()
try: os.killpg(int(sys.argv[1]), signal.SIGKILL)
except OSError: pass
"""


@dataclass(frozen=True)
class Ending:
    """How a child process ended.

    Attributes:
        returncode: The return code as in `subprocess`: negative for a signal.
        cause: The reason why the supervisor ended it: `"timeout"` or `"interrupted"` (by the user); `""` when it
            ended by itself.
        signal: The user's signal (`"SIGINT"`), the signal that killed it (`"SIGABRT"`), or `"exit status 7"`.
    """

    returncode: int
    cause: str
    signal: str


class Interrupts:
    """Hold back signals that ask this process to stop while the context lasts.

    A run thus ends in order and its report is written, however often a user presses Ctrl-C. Contexts may be nested;
    the outermost one installs the handlers. Only the main thread can install handlers; in other threads nothing is
    held back.

    Args:
        to_the_end: Whether the process ends after the context. Signals are then ignored after it, because all output
            is written and a signal during Python's shutdown would only change the exit status.
    """

    _active: Interrupts | None = None

    def __init__(self, *, to_the_end: bool = False) -> None:
        self._to_the_end = to_the_end
        self._received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._outer: Interrupts | None = None

    @property
    def received(self) -> signal.Signals | None:
        """Return the first signal since the outermost context began; None when there was none."""
        return self._outer.received if self._outer is not None else self._received

    def __enter__(self) -> Interrupts:
        self._outer = Interrupts._active
        if self._outer is None and threading.current_thread() is threading.main_thread():
            Interrupts._active = self
            for number in STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # it is ignored under nohup
                    self._before[number] = signal.signal(number, self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._to_the_end else handler)  # type: ignore[arg-type]
        self._before.clear()
        if Interrupts._active is self:
            Interrupts._active = None

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self._received = self._received or signal.Signals(number)


class UserInterrupt:
    """Distinguish an interrupt of the user from a KeyboardInterrupt that the target raises itself.

    It works in the main thread and with Python's own handler of SIGINT; elsewhere `received` stays False.

    Attributes:
        received: Whether the process got SIGINT while the context lasted.
    """

    def __init__(self) -> None:
        self.received = False
        self._installed = False

    def __enter__(self) -> UserInterrupt:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._receive)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def is_behind(self, problem: BaseException) -> bool:
        """Return whether an exception is a KeyboardInterrupt and the process got SIGINT."""
        return self.received and isinstance(problem, KeyboardInterrupt)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.default_int_handler(number, frame)


class Child:
    """Run a child process that may crash or hang. Its output goes to files, and everything it started ends with it.

    Args:
        folder: The existing folder for the files.
        command: The command and its arguments.
        environment: The child's variables; those that make Python write its stack after a crash are added.

    Attributes:
        folder: The existing folder in which child.out and child.err are written.
    """

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._command = list(command)
        self._environment = {
            **environment,
            "PYTHONFAULTHANDLER": "1",  # makes a crash write the Python stack to stderr
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, poll: Callable[[], float]) -> Ending:
        """Run the child until it ends by itself, its time is up or the user stops this process; return how it ended.

        Args:
            poll: A function that is called repeatedly while the child runs, and returns the seconds that it still
                has. At a negative value the child is told to write where it hangs (SIGUSR1), and is then ended.
        """
        with (
            (self.folder / "child.out").open("wb") as out,
            (self.folder / "child.err").open("wb") as err,
            Interrupts() as interrupts,
        ):
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment,
                start_new_session=True,  # so that an interrupt at the terminal reaches only this process
            )
            try:
                with _guarded(child):
                    cause = self._follow(child, poll, interrupts)
            finally:
                self._end(child)
        if cause == "interrupted":
            name = interrupts.received.name if interrupts.received else ""
        elif cause == "timeout":
            name = ""
        else:
            code = child.returncode
            name = _signal_name(-code) if code < 0 else f"exit status {code}"
        return Ending(child.returncode, cause, name)

    def last_words(self, lines: int, stream: str = "err") -> str:
        """Return the last lines of its stderr (or of its stdout, `"out"`), without the harness's own frames.

        The output before Python's report of a fatal signal comes first, because it holds Metal's assertion, which
        the stack of a deep model would push out.
        """
        try:
            text = (self.folder / f"child.{stream}").read_bytes().decode(errors="replace")
        except OSError:
            return ""
        kept = [line for line in text.rstrip().splitlines() if not _HARNESS_FRAME.search(line)]
        fatal = max((k for k, line in enumerate(kept) if line.startswith(_FATAL)), default=None)
        if fatal is not None and len(kept) - fatal > lines // 2:
            before = kept[max(0, fatal - lines // 2) : fatal]
            stack = kept[fatal:]
            current = next((k for k, line in enumerate(stack) if line.startswith(_CURRENT)), 0)
            # the innermost frames are at the top of the thread that died
            return "\n".join([*before, stack[0], *stack[current : current + lines - len(before) - 1]])
        return "\n".join(kept[-lines:])

    def _follow(
        self, child: subprocess.Popen[bytes], poll: Callable[[], float], interrupts: Interrupts
    ) -> str:
        """Wait until the child ends, is stopped or hangs; return the reason why it was ended, or `""`."""
        while child.poll() is None:
            left = poll()
            if interrupts.received is not None:
                return "interrupted"
            if left < 0:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGUSR1)  # its handler writes where it hangs
                time.sleep(_LAST_WORDS_S)
                return "timeout"
            time.sleep(_POLL_S)
        return ""

    @staticmethod
    def _end(child: subprocess.Popen[bytes]) -> None:
        """End the child and everything that it started, which share a process group."""
        for number, patience in ((signal.SIGTERM, _LAST_WORDS_S), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=patience)


@contextlib.contextmanager
def _guarded(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the child's process group if this process is killed in the meantime."""
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(child.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe: IO[bytes] | None = guard.stdin
    try:
        yield
    finally:
        guard.kill()  # before its pipe ends, because this process ends the child
        guard.wait()
        if pipe is not None:
            pipe.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
