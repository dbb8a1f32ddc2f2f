"""A file that is appended to in a process whose other code may close any descriptor, or fork.

The code of a target runs in the process that writes the journal and the flight recorder. `os.closerange(3, 256)` is a
line that daemons have, and the next file that such a target opens gets the number of ours: what is then written to that
number would go into the target's file.
"""

from __future__ import annotations

import os
from os import close, fstat, getpid, write  # bound here: code of a target may replace those of the module
from os import open as open_
from pathlib import Path

#: Names of files whose descriptor was closed by other code of this process, in the order in which that was seen.
_disturbed: list[str] = []


def disturbed() -> list[str]:
    """Return the names of files of this process whose descriptor other code has closed."""
    return list(_disturbed)


class OwnFile:
    """Appends to a file through a descriptor of its own, and to that file only.

    Before each write it is looked at what the descriptor leads to. Where that is no longer the file, it is opened anew;
    where the file is no longer at its path, nothing is written. A forked copy of the process writes nothing.

    Attributes:
        path: the file.
        number: the descriptor.
        is_disturbed: other code has closed the descriptor.

    Args:
        path: created where there is none.
        empty: remove what it holds.
        mode: its permissions where it is created.
    """

    def __init__(self, path: Path, *, empty: bool = False, mode: int = 0o644) -> None:
        self.path = path
        self.is_disturbed = False
        self._owner = getpid()
        self.number = open_(path, _FLAGS | os.O_CREAT | (os.O_TRUNC if empty else 0), mode)
        self._identity = identity(self.number)

    def write(self, data: bytes) -> int:
        """Append in one call; return the bytes that were written, 0 where the file is gone or closed.

        Raises:
            OSError: the disk is full, or fails.
        """
        return write(self.number, data) if self._is_ours() else 0

    def close(self) -> None:
        """Close the descriptor, unless it leads elsewhere by now. Nothing can be written afterwards."""
        if self._is_ours():
            close(self.number)
        self.number = -1

    def _is_ours(self) -> bool:
        if self.number < 0 or getpid() != self._owner:
            return False
        if identity(self.number) == self._identity:
            return True
        if not self.is_disturbed:
            self.is_disturbed = True
            _disturbed.append(self.path.name)
        try:
            self.number = open_(self.path, _FLAGS)
        except OSError:
            self.number = -1
            return False
        if identity(self.number) == self._identity:
            return True
        close(self.number)
        self.number = -1
        return False


_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


def identity(number: int) -> tuple[int, int] | None:
    """Return what identifies the file behind a descriptor; None where it is closed."""
    try:
        found = fstat(number)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
