"""Repositories of the Hugging Face Hub: what a download would take, and the download itself."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import logging
import os
import shutil
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpsprobe.errors import TargetError

#: The same weights for other frameworks, or second copies of the safetensors: not fetched.
OTHER_FORMATS = [
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
    "*.ot",
    "*.tflite",
    "*.mlmodel",
    "*.pth",
]
OTHER_FOLDERS = ["onnx/*", "openvino/*", "original/*", "coreml/*", "*.mlpackage/*", "flax/*", "tf/*"]
_PICKLED = ["*.bin", "*.pt", "*.ckpt"]

#: Room that must stay free on the disk after a download: a full system volume harms more than a failed run.
SPARE_BYTES = 1 << 30


class NoSuchModelError(TargetError):
    """No repository (or revision) of that name that this user can see."""


class GatedError(TargetError):
    """The repository's terms must be accepted, or the token is missing or not sufficient."""


class HubUnreachableError(TargetError):
    """The hub does not answer, and the cache does not hold what is needed."""


class DiskFullError(TargetError):
    """The download would not fit on the disk."""


@dataclass(frozen=True)
class Preflight:
    """What is known of a repository before its weights are fetched.

    Attributes:
        repo: its id.
        asked: the revision asked for; None for the default branch.
        revision: the commit that this is at the moment.
        files: sizes in bytes by file name, of what would be fetched.
        cached_bytes: how much of that the cache already holds.
        free_bytes: free space on the cache's disk.
        gated: its terms must be accepted: False, `"auto"` or `"manual"`.
        token: a token was found (which one is never said).
    """

    repo: str
    asked: str | None
    revision: str
    files: dict[str, int]
    cached_bytes: int
    free_bytes: int
    gated: bool | str
    token: bool

    @property
    def total_bytes(self) -> int:
        """Size of what would be fetched, bytes."""
        return sum(self.files.values())

    @property
    def needed_bytes(self) -> int:
        """What is not in the cache yet, bytes."""
        return max(0, self.total_bytes - self.cached_bytes)


def offline() -> bool:
    """Whether the hub is not to be asked: the environment forbids it, or its name leads nowhere.

    Without a connection the hub's client tries each request six times, for 23 s in all.
    """
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _resolves(constants.ENDPOINT)


@functools.lru_cache
def _resolves(endpoint: str) -> bool:
    """Whether the host of an address has one of its own; taken for granted where a proxy would ask."""
    url = urllib.parse.urlsplit(endpoint)
    if url.hostname is None or url.scheme in urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(url.hostname, None)
    except OSError:
        return False
    return True


def cached_snapshot(repo: str, revision: str | None = None) -> Path:
    """The snapshot in the cache, without asking the hub.

    Raises:
        HubUnreachableError: it is not there.
    """
    from huggingface_hub import snapshot_download

    with _worded(repo, revision):
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))


def fetch_file(repo: str, name: str, revision: str | None = None, *, offline: bool = False) -> Path | None:
    """One small file of a repository, from the cache or the hub; None when the repository has none such.

    Args:
        repo: its id.
        name: of the file.
        revision: commit, tag or branch.
        offline: ask the cache alone.

    Raises:
        TargetError: as `preflight` does.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with _worded(repo, revision):
        try:
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=offline))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None


def preflight(repo: str, revision: str | None = None) -> Preflight:
    """Ask the hub what a download would take, and this machine whether it can.

    Raises:
        NoSuchModelError, GatedError, HubUnreachableError: see there.
    """
    from huggingface_hub import HfApi, constants, get_token

    with _worded(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    ignored = _ignored(list(sizes))
    files = {
        name: size
        for name, size in sizes.items()
        if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)
    }
    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"models--{repo.replace('/', '--')}"
    return Preflight(
        repo=repo,
        asked=revision,
        revision=info.sha or revision or "main",
        files=files,
        cached_bytes=min(_bytes_below(folder / "blobs"), sum(files.values())),
        free_bytes=shutil.disk_usage(cache).free,
        gated=info.gated or False,
        token=get_token() is not None,
    )


def download(plan: Preflight, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a repository into the usual cache, resuming what was begun.

    Args:
        plan: what to fetch.
        progress: called about once a second with bytes there and bytes in all.

    Returns:
        The snapshot's folder.

    Raises:
        DiskFullError: it would not fit; nothing was fetched.
        TargetError: as `preflight` does.
    """
    from huggingface_hub import constants, snapshot_download

    if plan.needed_bytes + SPARE_BYTES > plan.free_bytes:
        raise DiskFullError(
            f"{plan.repo}: {plan.needed_bytes / 1e9:.1f} GB to download and {SPARE_BYTES / 1e9:.1f} GB to"
            f" spare, but {constants.HF_HUB_CACHE} has {plan.free_bytes / 1e9:.1f} GB free.",
            "Free space, or set HF_HOME to a larger disk.",
        )
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{plan.repo.replace('/', '--')}" / "blobs"
    with _watched(blobs, plan.total_bytes, progress), _worded(plan.repo, plan.revision):
        # By the name asked for, not by its commit: only then does the cache remember what that name meant,
        # which is how it is found again offline.
        return Path(
            snapshot_download(plan.repo, revision=plan.asked, allow_patterns=sorted(plan.files) or None)
        )


def _ignored(names: list[str]) -> list[str]:
    safetensors = any(name.endswith(".safetensors") for name in names)
    return OTHER_FORMATS + OTHER_FOLDERS + (_PICKLED if safetensors else [])


def _bytes_below(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return 0


@contextlib.contextmanager
def _watched(blobs: Path, total: int, progress: Callable[[int, int], None] | None) -> Iterator[None]:
    """Report the cache's growth while the block runs.

    The cache's own files are watched, incomplete ones included, because the hub client's progress bars
    differ by release and by transfer method.
    """
    if progress is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            progress(min(_bytes_below(blobs), total), total)

    thread = threading.Thread(target=watch, daemon=True, name="mpsprobe-download")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _worded(repo: str, revision: str | None) -> Iterator[None]:
    """The hub client's many errors as ours: one line, and what to do. Of each try that fails it says nothing."""
    from huggingface_hub import errors, get_token

    at = f" at revision {revision}" if revision else ""
    unreachable: tuple[type[Exception], ...] = (OSError,)  # errors of requests (hub < 1.0) are OSErrors
    with contextlib.suppress(ImportError):
        import httpx  # the client of huggingface-hub >= 1.0

        unreachable = (OSError, httpx.HTTPError)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except errors.GatedRepoError as problem:
        raise GatedError(
            f"{repo}: gated, and {'this token has no access' if get_token() else 'no token was found'}.",
            f"Accept the terms at https://huggingface.co/{repo}, then `hf auth login`.",
        ) from problem
    except errors.HFValidationError as problem:
        raise NoSuchModelError(f"{repo!r} is not a repository id.", "Write it as owner/name.") from problem
    except errors.RevisionNotFoundError as problem:
        raise NoSuchModelError(
            f"{repo}: no revision {revision!r}.", "Name a branch, tag or commit."
        ) from problem
    except errors.RepositoryNotFoundError as problem:
        raise NoSuchModelError(
            f"{repo}: no such model on the hub, or it is private.",
            "Check the spelling; for a private one `hf auth login`.",
        ) from problem
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as problem:
        raise HubUnreachableError(
            f"{repo}{at}: not in the cache, and the hub is offline or does not answer.",
            "Unset HF_HUB_OFFLINE or restore the connection, or give a local folder.",
        ) from problem
    except errors.HfHubHTTPError as problem:
        status = getattr(problem.response, "status_code", "?")
        raise HubUnreachableError(
            f"{repo}{at}: the hub answered {status}.", "Try again later; what was fetched is kept."
        ) from problem
    except unreachable as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
            raise DiskFullError(
                f"{repo}: the disk is full.", "Free space; what was fetched is kept."
            ) from problem
        if isinstance(problem, PermissionError):
            raise TargetError(f"{repo}: the cache cannot be written: {problem}.", "Set HF_HOME.") from problem
        raise HubUnreachableError(
            f"{repo}{at}: the hub could not be reached ({type(problem).__name__}).",
            "Check the connection; a second run resumes.",
        ) from problem
    finally:
        logger.setLevel(level)
