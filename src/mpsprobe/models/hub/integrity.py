r"""Checksums of files against those that the hub states, read in pieces and remembered.

The hub states the sha256 of large files and the git blob id (sha1 of `blob SIZE\0` and the content) of small ones, and
names the blobs of its cache by them.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpsprobe.models.hub.cache import Notes

#: Bytes read at once: what verification adds to the memory of the process.
PIECE = 4 << 20
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = "verified"


def is_checksum(text: str) -> bool:
    """Return whether a text has the form of a sha256 or a git blob id."""
    return _CHECKSUM.fullmatch(text) is not None


def hasher(checksum: str, size: int) -> Any:
    """Return the hash object (of `hashlib`) whose digest a checksum is, for a file of `size` bytes."""
    if len(checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def checksum_of(path: Path, like: str, read: Callable[[int], None] = lambda _: None) -> str:
    """Read a file in pieces and return its checksum of the same kind as `like`.

    Args:
        path: the file.
        like: a checksum of the kind that is wanted.
        read: called with the number of bytes of each piece.
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
    """The checksum of a file that is still arriving, so that no byte is read a second time for it.

    Args:
        checksum: what the hub states, of whose kind it is.
        size: bytes of the whole file.
    """

    def __init__(self, checksum: str, size: int) -> None:
        self._like, self._size = checksum, size
        self._digest = hasher(checksum, size)
        self._position = 0

    def go_to(self, path: Path, begin: int, read: Callable[[int], None] = lambda _: None) -> None:
        """Take the first `begin` bytes of a file in; those that went in before are not read again.

        Args:
            path: the file, whose first bytes are those that were added before.
            begin: where the next bytes will be added.
            read: called with the number of bytes of each piece that is read.
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
                    return  # shorter than it was: the checksum will not be right
                self.add(view[:count])
                read(count)

    def add(self, data: bytes | memoryview) -> None:
        """Take the next bytes in."""
        self._digest.update(data)
        self._position += len(data)

    @property
    def is_right(self) -> bool:
        """Return whether all bytes went in, and their checksum is the one that the hub states."""
        return self._position == self._size and self._digest.hexdigest() == self._like


#: How the pointer of a Git LFS file begins; the content is elsewhere.
POINTER = b"version https://git-lfs.github.com/spec/"


class Verified:
    """Which blobs of a repository were compared with their checksums before, and have not been written since.

    A blob is known by its checksum, and found unchanged by its size and its time of modification.
    """

    def __init__(self, repo: str) -> None:
        self._notes = Notes(repo)
        self._known = self._notes.read(_NAME)
        self._lock = threading.Lock()
        self._changed = False

    def knows(self, path: Path, checksum: str) -> bool:
        """Return whether that file was found whole before, and is unchanged since."""
        stamp = self._stamp(path)
        with self._lock:
            return stamp is not None and self._known.get(checksum) == stamp

    def add(self, path: Path, checksum: str) -> None:
        """Remember that a file was found whole."""
        stamp = self._stamp(path)
        with self._lock:
            if stamp is not None and self._known.get(checksum) != stamp:
                self._known[checksum] = stamp
                self._changed = True

    def save(self) -> None:
        """Write down what is known, beside what other processes wrote meanwhile."""
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
