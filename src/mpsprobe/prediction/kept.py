"""The cache of predictions: answers of `mpsprobe predict`, used again while nothing that they depend on has changed.

An entry is one file in `predictions/` of `cache_dir()`, named after the digests of `ingredients.py`. It holds the run,
and the files of the modules that were imported for it with a digest of their sizes and times: an edit of any of
them, also in a package that is installed in place, makes the answer void. Nothing in an entry is executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mpsprobe.errors import SurroundingsError
from mpsprobe.models.hub.cache import cache_dir, write_atomically
from mpsprobe.prediction import ingredients as depends
from mpsprobe.run import Run

#: The greatest size and number of entries in the folder; the least recently used ones are deleted first.
MOST_BYTES, MOST_ENTRIES = 200 << 20, 200
#: The greatest size of one answer in bytes, before compression.
_ANSWER_BYTES = 100 << 20
_SUFFIX = ".prediction"
_CHECKSUM = 32


class _Entry(msgspec.Struct, frozen=True):
    """One cached prediction, as its file stores it.

    Attributes:
        ingredients: The digests of everything that the prediction depends on.
        modules: The files of the imported modules.
        modules_digest: The digest of their sizes and times.
        run: The prediction.
    """

    ingredients: dict[str, str]
    modules: list[str]
    modules_digest: str
    run: Run


@dataclass(frozen=True)
class CacheContent:
    """The number and the size of the cached predictions.

    Attributes:
        folder: The folder of the cache.
        entries: The number of cached predictions.
        nbytes: The bytes that they take on the disk.
    """

    folder: Path
    entries: int
    nbytes: int


def folder() -> Path:
    """Return the folder of cached predictions, which need not exist."""
    return cache_dir() / "predictions"


def find(ingredients: dict[str, str]) -> Run | None:
    """Return the cached prediction for these ingredients, with a note that it is one; None where none is valid.

    An entry whose modules have changed since is deleted.
    """
    if not ingredients["files"]:
        return None
    with contextlib.suppress(OSError, SurroundingsError):  # no home folder
        path = _path(ingredients)
        entry = _read(path)
        if entry is None or entry.ingredients != ingredients:
            return None
        if depends.stated(entry.modules) != entry.modules_digest:
            path.unlink()
            return None
        os.utime(path)
        return _marked(entry.run)
    return None


def keep(before: dict[str, str], after: dict[str, str] | None, run: Run) -> bool:
    """Store a prediction in the cache, unless it was cut off or an ingredient changed while it was made.

    The files of a repository that the prediction itself fetched may change.

    Args:
        before: The ingredients at the beginning of the prediction.
        after: The ingredients at its end; None where they could no longer be determined.
        run: The prediction.

    Returns:
        Whether it was stored; not if it is too large, or the cache cannot be written.
    """
    if after is None or not after["files"] or is_cut_off(run):
        return False
    fetched = (
        {} if before["files"] else {"files": after["files"]}
    )  # the prediction itself fetched a repository
    if {**before, **fetched} != after:
        return False
    modules = depends.imported()
    packed = msgspec.msgpack.encode(_Entry(after, modules, depends.stated(modules), run))
    if len(packed) > _ANSWER_BYTES:
        return False
    packed = zlib.compress(packed, 1)
    with contextlib.suppress(OSError, SurroundingsError):
        _make_folder()
        write_atomically(_path(after), hashlib.sha256(packed).digest() + packed)
        _make_room()
        return True
    return False


def is_cut_off(run: Run) -> bool:
    """Return whether the model of a prediction stopped early, in its only release or in one of several.

    True too for a run that is no prediction.
    """
    made = run.predicted
    if made is None or made.stopped or made.next_step:
        return True
    # a release that has no MPS on that macOS has no op uses: that is its whole answer
    return any(row.stopped and row.op_uses for row in made.releases)


def content() -> CacheContent:
    """Return the number, size and folder of the cached predictions."""
    files = _files()
    return CacheContent(folder(), len(files), sum(size for _, size, _ in files))


def clear() -> CacheContent:
    """Delete every cached prediction, and return what there was."""
    was = content()
    for _, _, path in _files():
        path.unlink(missing_ok=True)
    return was


def _path(ingredients: dict[str, str]) -> Path:
    name = hashlib.sha256(repr(sorted(ingredients.items())).encode()).hexdigest()
    return folder() / f"{name[:32]}{_SUFFIX}"


def _make_folder() -> None:
    """Make the folder so that only this user can write to it: with a umask of 002 its group could write answers."""
    folder().mkdir(parents=True, exist_ok=True)
    folder().chmod(0o700)


def _read(path: Path) -> _Entry | None:
    """Read an entry; return None for one that is missing, damaged, of another version, or that others could write."""
    try:
        data = path.read_bytes() if _is_ours(path) else b""
    except OSError:
        return None
    packed = data[_CHECKSUM:]
    if hashlib.sha256(packed).digest() != data[:_CHECKSUM]:
        return None
    try:
        unpacking = zlib.decompressobj()
        unpacked = unpacking.decompress(packed, _ANSWER_BYTES)
        return msgspec.msgpack.decode(unpacked, type=_Entry) if unpacking.eof else None
    except (zlib.error, msgspec.MsgspecError):
        return None


def _is_ours(path: Path) -> bool:
    """Return whether a file and its folder are this user's and not writable by others, who could plant an answer."""
    for one in (path, path.parent):
        found = one.lstat()
        if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
    return path.is_file()


def _marked(run: Run) -> Run:
    assert run.predicted is not None
    made = run.ended.replace("T", " ").replace("Z", " UTC")
    sentence = f"From the cache of predictions, made {made}: --no-cache makes it anew."
    return msgspec.structs.replace(
        run,
        command=["mpsprobe", *sys.argv[1:]],
        limits=[sentence, *run.limits],
        predicted=msgspec.structs.replace(run.predicted, kept_since=run.ended),
    )


def _files() -> list[tuple[float, int, Path]]:
    """Return time of last use, size in bytes and path of each entry, the least recently used first."""
    found = []
    with contextlib.suppress(OSError, SurroundingsError):
        for path in folder().glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
    return sorted(found)


def _make_room() -> None:
    files = _files()
    total = sum(size for _, size, _ in files)
    for count, (_, size, path) in zip(range(len(files), 0, -1), files, strict=True):
        if total <= MOST_BYTES and count <= MOST_ENTRIES:
            return
        path.unlink(missing_ok=True)
        total -= size
