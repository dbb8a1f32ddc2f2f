"""The locks that processes take before they write a file of the Hub's cache, and their holders."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from mpsprobe.models.hub import transport
from mpsprobe.models.hub.failures import About, LockHeldError

#: The seconds without progress of a lock's holder after which waiting ends, unless MPSPROBE_LOCK_TIMEOUT is set.
PATIENCE = 120.0
#: The interval in seconds at which a waiting user is informed.
_TELL = 10.0
_PAUSE = 0.2


@dataclass(frozen=True)
class Holder:
    """A process that holds the lock of a file.

    Attributes:
        pid: The id of the process.
        command: Its command line, with the program's file name instead of its path, cut to 60 characters.
        started: The local time at which it started.
    """

    pid: int
    command: str
    started: datetime

    def __str__(self) -> str:
        """Return `process 4242 (python train.py), running since 14:02:10`."""
        form = "%H:%M:%S" if self.started.date() == datetime.now().date() else "%Y-%m-%d %H:%M"
        return f"process {self.pid} ({self.command}), running since {self.started.strftime(form)}"


def holder(path: Path) -> Holder | None:
    """Return the process that holds the lock on a file; None when there is none, or when it cannot be determined.

    Linux lists locks with their holders in /proc/locks. Elsewhere, or where that names nobody, it is the oldest other
    process that has the file open.
    """
    pids = _pids_of_locks(path) if sys.platform == "linux" else []
    found = [one for pid in pids if (one := _described(pid)) is not None]
    if not found and not pids:
        found = [one for one in _openers(path) if one.pid != os.getpid()]
    return min(found, key=lambda one: one.started, default=None)


def _pids_of_locks(path: Path) -> list[int]:
    """Return the processes that /proc/locks states for a file: `1: FLOCK ADVISORY WRITE 71 fe:00:9 0 EOF`."""
    try:
        stat = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    wanted = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    found = []
    for line in lines:
        words = line.split()
        if "->" not in words and len(words) >= 6 and words[5] == wanted and words[4].isdigit():
            found.append(int(words[4]))
    return found


def _openers(path: Path) -> Iterator[Holder]:
    real = os.path.realpath(path)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(os.path.realpath(opened.path) == real for opened in process.open_files()):
                described = _described(process.pid)
                if described is not None:
                    yield described


def _described(pid: int) -> Holder | None:
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        words = process.cmdline() or [process.name()]
        command = " ".join(" ".join([Path(words[0]).name, *words[1:]]).split())
        return Holder(pid, command[:60], datetime.fromtimestamp(process.create_time()))
    return None


@contextmanager
def held(
    path: Path,
    about: About,
    progress: Callable[[], int],
    say: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold a lock while the block runs; wait for another holder as long as it makes progress, and say who it is.

    Args:
        path: The lock file.
        about: The file that the lock protects, for the messages.
        progress: A function that returns how many bytes the holder has written.
        say: A function that is called with a line for the user, at once and then every ten seconds.
        stopped: A function that returns whether to stop waiting.

    Raises:
        LockHeldError: The holder wrote nothing for MPSPROBE_LOCK_TIMEOUT seconds (`PATIENCE` by default), or
            `stopped` returned True.
        UsageError: MPSPROBE_LOCK_TIMEOUT is not a positive number.
        OSError: The lock file cannot be written.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock: FileLock | SoftFileLock = FileLock(path)
    patience = transport.seconds_of("MPSPROBE_LOCK_TIMEOUT", PATIENCE)
    begun = time.monotonic()
    last_growth, last_message, seen = begun, 0.0, progress()
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except NotImplementedError:  # a file system without flock; the Hub's client does the same
            lock = SoftFileLock(path)
            continue
        except Timeout:
            pass
        now, size = time.monotonic(), progress()
        if size != seen:
            last_growth, seen = now, size
        who = str(holder(path) or "another process")
        if now - last_growth > patience or stopped():
            raise LockHeldError(
                f"{about}: its lock is held by {who}, which wrote nothing for {now - last_growth:.0f} s.",
                f"Wait for that process or end it; the lock ({path}) is free as soon as it ends.",
            )
        if now - last_message >= _TELL:
            say(f"{about}: waiting for {who}, which holds its lock ({now - begun:.0f} s)")
            last_message = now
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.release()
