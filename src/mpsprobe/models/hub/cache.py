"""Folders of cached files: mpsprobe's own cache, and the layout of the Hugging Face Hub's.

The Hub's cache holds `models--OWNER--NAME/` with `blobs/CHECKSUM` (the bytes), `snapshots/COMMIT/PATH` (links to
them) and `refs/REVISION` (the commit of a branch or tag), and next to these folders `.locks/`
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsprobe.errors import SurroundingsError
from mpsprobe.places import caches

#: A commit hash, as the Hub writes it.
COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_dir() -> Path:
    """Return `$MPSPROBE_CACHE`, else `mpsprobe` in the platform's folder for caches, without creating it.

    Raises:
        SurroundingsError: Neither the variable nor a home folder names a place.
    """
    if named := os.environ.get("MPSPROBE_CACHE"):
        return Path(named).expanduser()
    return caches() / "mpsprobe"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`; when it does not exist, make it and fill it first.

    Several processes may call this at once: each fills a folder of its own, and one of these is renamed to `folder`.

    Args:
        folder: A folder in the cache.
        make: A function that fills the empty folder passed to it.

    Raises:
        OSError: The folder cannot be made; errors of `make` are raised too, and leave nothing behind.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        make(building)
        building.chmod(0o755)  # mkdtemp makes it private
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds either the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp makes it private and gives a plain name
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def hub_cache() -> Path:
    """Return the Hub's cache, as huggingface_hub read it when imported: HF_HUB_CACHE, else `hub` in HF_HOME."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


@dataclass(frozen=True)
class RepoCache:
    """The part of the Hub's cache that belongs to one repository.

    Attributes:
        repo: The id of the repository.
    """

    repo: str

    @property
    def folder(self) -> Path:
        """Return the repository's folder in the Hub's cache, `models--OWNER--NAME`."""
        return hub_cache() / f"models--{self.repo.replace('/', '--')}"

    def blob(self, checksum: str) -> Path:
        """Return the path of the blob with that checksum."""
        return self.folder / "blobs" / checksum

    def lock(self, checksum: str) -> Path:
        """Return the lock file that the Hub's client and mpsprobe take before they write a blob."""
        return hub_cache() / ".locks" / self.folder.name / f"{checksum}.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files."""
        return self.folder / "snapshots" / commit

    def commit(self, revision: str | None) -> str | None:
        """Return the commit that a branch or tag had when it was last fetched, or a full hash if its folder is cached.

        None means that the cache has no such commit. `revision` None stands for `main`.
        """
        named = revision or "main"
        if COMMIT.fullmatch(named):
            return named if self.snapshot(named).is_dir() else None
        if ".." in Path(named).parts or Path(named).is_absolute():
            return None
        try:
            found = (self.folder / "refs" / named).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return found if COMMIT.fullmatch(found) else None

    def remember(self, revision: str | None, commit: str) -> None:
        """Record the commit of a branch or tag (None: `main`), as the Hub's client does, for use offline."""
        named = revision or "main"
        path = self.folder / "refs" / named
        if named == commit or self.commit(revision) == commit:
            return
        write_atomically(path, commit.encode())

    def link(self, commit: str, name: str, blob: Path) -> Path:
        """Link a blob into a commit's folder under a file's name; where links fail, move it there.

        Returns:
            The path of the file in that folder.
        """
        path = self.snapshot(commit) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, path.parent)
        if path.is_symlink() and os.readlink(path) == target:  # noqa: PTH115
            return path
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        try:
            fresh.symlink_to(target)
        except OSError:  # as the Hub's client does on such disks, because a copy would take the space twice
            blob.replace(path)
            return path
        fresh.replace(path)
        return path


@dataclass(frozen=True)
class Notes:
    """Small facts about a repository's files that a later run needs, stored in mpsprobe's own cache.

    Attributes:
        repo: The id of the repository.
    """

    repo: str

    def _path(self, name: str) -> Path:
        return cache_dir() / "hub" / self.repo.replace("/", "--") / f"{name}.json"

    def read(self, name: str) -> dict[str, Any]:
        """Return the facts stored under a name; `{}` when there are none, or when they cannot be read."""
        with contextlib.suppress(OSError, ValueError, RecursionError, SurroundingsError):
            found = json.loads(self._path(name).read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    def write(self, name: str, facts: dict[str, Any]) -> None:
        """Store facts under a name; do nothing if the cache cannot be written, because that only costs time later."""
        with contextlib.suppress(OSError, SurroundingsError):
            write_atomically(self._path(name), json.dumps(facts, sort_keys=True).encode())
