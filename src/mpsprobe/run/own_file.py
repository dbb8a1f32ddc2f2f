"""A file to append to in a process whose other code may close any descriptor, or fork.

The code of a target runs in the process that writes the journal and the flight recorder. Daemons often call
`os.closerange(3, 256)`; the next file that such a target opens then gets the number of our descriptor, and our
writes would go into the target's file.
"""

from __future__ import annotations

import os
from os import close, fstat, getpid, write  # bound here: a target may replace the module's functions
from os import open as open_
from pathlib import Path

#: Names of files whose descriptor was closed by other code of this process, in the order of discovery.
_disturbed: list[str] = []


def disturbed() -> list[str]:
    """Return the names of files of this process whose descriptor was closed by other code."""
    return list(_disturbed)


class OwnFile:
    """Append to one file, and to no other, through a private descriptor.

    Before each write, the descriptor is compared with the file. If it refers to another file, the file is opened
    again; if the file is no longer at its path, nothing is written. A forked copy of the process writes nothing.

    Attributes:
        path: The path of the file.
        number: The descriptor; -1 once it is closed.
        is_disturbed: Whether other code has closed the descriptor.

    Args:
        path: The path of the file, which is created if there is none.
        empty: Whether to truncate the file.
        mode: The permissions with which it is created.
    """

    def __init__(self, path: Path, *, empty: bool = False, mode: int = 0o644) -> None:
        self.path = path
        self.is_disturbed = False
        self._owner = getpid()
        self.number = open_(path, _FLAGS | os.O_CREAT | (os.O_TRUNC if empty else 0), mode)
        self._identity = identity(self.number)

    def write(self, data: bytes) -> int:
        """Append data in one call, and return the number of bytes written, which is 0 if the file is gone or closed.

        Raises:
            OSError: The disk is full, or fails.
        """
        return write(self.number, data) if self._is_ours() else 0

    def close(self) -> None:
        """Close the descriptor, unless it refers to another file by now. Later writes do nothing."""
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
    """Return the device and inode of the file behind a descriptor; None when the descriptor is closed."""
    try:
        found = fstat(number)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
