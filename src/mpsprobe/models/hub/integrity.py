r"""Compare checksums of files with those that the Hub states, and tell which weight files of a folder do not load.

The Hub states the sha256 of large files and the git blob id (sha1 of `blob SIZE\0` and the content) of small ones,
and uses them as names of the blobs in its cache.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.models.hub import snapshot
from mpsprobe.models.hub.cache import Notes

#: The number of bytes read at once, which is the memory that verification takes.
PIECE = 4 << 20
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAME = "verified"


def is_checksum(text: str) -> bool:
    """Return whether a text has the format of a sha256 or a git blob id."""
    return _CHECKSUM.fullmatch(text) is not None


def hasher(checksum: str, size: int) -> Any:
    """Return the `hashlib` object for the kind of a checksum: sha256, or the git blob id of a file of `size` bytes."""
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
    """A checksum that is computed while a file arrives, so that its bytes need not be read again.

    Args:
        checksum: The checksum that the Hub states.
        size: The size of the whole file in bytes.
    """

    def __init__(self, checksum: str, size: int) -> None:
        self._like, self._size = checksum, size
        self._digest = hasher(checksum, size)
        self._position = 0

    def go_to(self, path: Path, begin: int, read: Callable[[int], None] = lambda _: None) -> None:
        """Make the checksum cover exactly the first `begin` bytes of a file, reading those that are not included yet.

        Where it covers more than that, it starts again at the first byte.

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


# ------------------------------------------------------------------------------------ weight files that do not load


@dataclass(frozen=True)
class WeightFault:
    """A reason why `from_pretrained` raises for the weight files of a folder.

    Attributes:
        what: The fault in a clause that names the file.
        fix: The fix, which names the file too and continues a sentence.
        pickled: Whether the file is a whole pickle, which transformers reads from torch 2.6 on only.
    """

    what: str
    fix: str
    pickled: bool = False


#: The first torch release with which transformers reads pickles, and the transformers release that began to ask for it
#: (utils/import_utils.py: `check_torch_load_is_safe`).
READS_PICKLES, ASKS_FOR_IT = "2.6", "4.52"
#: Weights of other frameworks, which `from_pretrained` names in its error.
_FOREIGN = {"tf_model.h5": ("TensorFlow", "from_tf"), "flax_model.msgpack": ("Flax", "from_flax")}
_WEIGHTS = (".safetensors", ".bin")


def faults(folder: Path) -> list[WeightFault]:
    """Return the reasons why `from_pretrained` raises for a folder's weight files; empty where it would not raise.

    The files are those that transformers or diffusers would choose, in their order. Sound pickles are a reason too,
    marked `pickled`. A folder with only a config, or with an index and no weight file, has no faults: it was fetched
    without the weights.
    """
    chosen = ("diffusion_pytorch_model",) * 2 if _is_of_diffusers(folder) else ("model", "pytorch_model")
    for stem, suffix in zip(chosen, _WEIGHTS, strict=True):
        single = f"{stem}{suffix}"
        if (folder / single).is_file():
            return _of_files(folder, [single])
        index = folder / f"{single}.index.json"
        if index.is_file():
            return _of_index(index) if any(one.suffix in _WEIGHTS for one in folder.iterdir()) else []
    for name, (framework, option) in _FOREIGN.items():
        if (folder / name).is_file():
            fix = f"convert {name} with {framework} and transformers 4: {option}=True, then save_pretrained()"
            return [WeightFault(f"{name} holds weights of {framework}, and there are none of PyTorch", fix)]
    return []


def _is_of_diffusers(folder: Path) -> bool:
    try:
        return "_diffusers_version" in toml.json_object(folder / "config.json")
    except DataError:
        return False


def _of_index(index: Path) -> list[WeightFault]:
    again = f"download {index.name} again"
    try:
        weight_map = toml.json_object(index).get("weight_map")
    except DataError:
        return [WeightFault(f"{index.name} cannot be read", again)]
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        return [WeightFault(f"{index.name} has no usable weight_map", again)]
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        some = f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
        what = f"{len(missing)} of {len(names)} files that {index.name} names are missing: {some}"
        return [
            WeightFault(
                what, f"download {some.removesuffix(' ...')}{' and the others' if len(missing) > 3 else ''}"
            )
        ]
    return _of_files(index.parent, names)


def _of_files(folder: Path, names: list[str]) -> list[WeightFault]:
    found = [fault for name in names if (fault := _of_file(folder / name)) is not None]
    if not found and names[0].endswith(".bin"):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        read_by = f"transformers {ASKS_FOR_IT} and later read with torch {READS_PICKLES} or later"
        what = f"{names[0]}{more}: pickles, which {read_by}"
        fix = f"use torch {READS_PICKLES} or later, or write {names[0]}{more} as safetensors there (save_pretrained())"
        return [WeightFault(what, fix, pickled=True)]
    return found


def _of_file(path: Path) -> WeightFault | None:
    """Return what is wrong with one weight file; None where its safetensors header, or a pickle's frame, is intact."""
    again = f"download {path.name} again"
    try:
        with path.open("rb") as file:
            head = file.read(len(POINTER))
    except OSError as problem:
        return WeightFault(f"{path.name} cannot be read: {problem.strerror}", again)
    if head == POINTER:
        return WeightFault(
            f"{path.name} is a Git LFS pointer, not the weights", f"run git lfs pull for {path.name}"
        )
    if path.suffix == ".bin":
        cut = not zipfile.is_zipfile(path) if head.startswith(b"PK") else not head.startswith(b"\x80")
        return WeightFault(f"{path.name} is cut off, or no file of torch.save", again) if cut else None
    try:
        snapshot.read_header(path)
    except snapshot.SnapshotError as problem:
        return WeightFault(problem.what.rstrip(".").replace(str(path), path.name), again)
    return None
