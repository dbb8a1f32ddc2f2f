r"""Compare checksums of files with those that the Hub states, reading in pieces and remembering results.

The Hub states the sha256 of large files and the git blob id (sha1 of `blob SIZE\0` and the content) of small ones,
and uses them as names of the blobs in its cache.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpsprobe.models.hub.cache import Notes

#: The number of bytes read at once, which is the memory that verification takes.
PIECE = 4 << 20
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = "verified"


def is_checksum(text: str) -> bool:
    """Return whether a text has the format of a sha256 or a git blob id."""
    return _CHECKSUM.fullmatch(text) is not None


def hasher(checksum: str, size: int) -> Any:
    """Return the hash object (of `hashlib`) for the kind of a checksum, for a file of `size` bytes."""
    if len(checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def checksum_of(path: Path, like: str, read: Callable[[int], None] = lambda _: None) -> str:
    """Read a file in pieces and return its checksum of the same kind as `like`.

    Args:
        path: The path of the file.
        like: A checksum of the required kind.
        read: A function that is called with the number of bytes of each piece.
    """
    digest = hasher(like, path.stat().st_size)
    piece = bytearray(PIECE)
    view = memoryview(piece)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(view[:count])
            read(count)
    return str(digest.hexdigest())


class RunningChecksum:
    """A checksum that is computed while a file arrives, so that no byte has to be read again.

    Args:
        checksum: The checksum that the Hub states.
        size: The size of the whole file in bytes.
    """

    def __init__(self, checksum: str, size: int) -> None:
        self._like, self._size = checksum, size
        self._digest = hasher(checksum, size)
        self._position = 0

    def go_to(self, path: Path, begin: int, read: Callable[[int], None] = lambda _: None) -> None:
        """Include the first `begin` bytes of a file; those that are already included are not read again.

        Args:
            path: The path of the file, which begins with the bytes that are already included.
            begin: The position at which the next bytes will be added.
            read: A function that is called with the number of bytes of each piece that is read.
        """
        if begin < self._position:
            self._digest, self._position = hasher(self._like, self._size), 0
        if begin == self._position:
            return
        piece = bytearray(PIECE)
        view = memoryview(piece)
        with path.open("rb", buffering=0) as file:
            file.seek(self._position)
            while self._position < begin:
                count = file.readinto(view[: min(PIECE, begin - self._position)])
                if not count:
                    return  # the file is shorter than before, so the checksum will be wrong
                self.add(view[:count])
                read(count)

    def add(self, data: bytes | memoryview) -> None:
        """Include the next bytes of the file."""
        self._digest.update(data)
        self._position += len(data)

    @property
    def is_right(self) -> bool:
        """Return whether all bytes have been included and their checksum is the one that the Hub states."""
        return self._position == self._size and self._digest.hexdigest() == self._like


#: The beginning of a Git LFS pointer, which stands for content elsewhere.
POINTER = b"version https://git-lfs.github.com/spec/"


class Verified:
    """Remember the blobs of a repository whose checksums were verified, until they change.

    A blob is identified by its checksum, and counts as unchanged if its size and modification time are the same.
    """

    def __init__(self, repo: str) -> None:
        self._notes = Notes(repo)
        self._known = self._notes.read(_NAME)
        self._lock = threading.Lock()
        self._changed = False

    def knows(self, path: Path, checksum: str) -> bool:
        """Return whether the file was verified before and has not changed since."""
        stamp = self._stamp(path)
        with self._lock:
            return stamp is not None and self._known.get(checksum) == stamp

    def add(self, path: Path, checksum: str) -> None:
        """Record that the checksum of a file was verified, with its size and modification time."""
        stamp = self._stamp(path)
        with self._lock:
            if stamp is not None and self._known.get(checksum) != stamp:
                self._known[checksum] = stamp
                self._changed = True

    def save(self) -> None:
        """Write the records to disk, merged with those that other processes have written in the meantime."""
        with self._lock:
            if self._changed:
                self._notes.write(_NAME, {**self._notes.read(_NAME), **self._known})
                self._changed = False

    @staticmethod
    def _stamp(path: Path) -> list[int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]
