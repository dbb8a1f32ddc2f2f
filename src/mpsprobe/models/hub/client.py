"""Repositories of the Hugging Face Hub: what a download would take, and the download itself."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpsprobe.models.hub import failures, metadata
from mpsprobe.models.hub.cache import Notes, RepoCache, hub_cache
from mpsprobe.models.hub.failures import (
    About,
    CacheNotWritableError,
    DamagedFileError,
    DiskFullError,
    GatedError,
    HubError,
    HubUnreachableError,
    LockHeldError,
    NoSuchModelError,
    NotCachedError,
    RateLimitError,
    TokenError,
)
from mpsprobe.models.hub.fetch import Download, DownloadProgress, FileProgress
from mpsprobe.models.hub.metadata import Headers, RepoInfo, Selection
from mpsprobe.models.hub.snapshot import INDEX, SINGLE, PickledWeightsError, SnapshotError
from mpsprobe.quantities import decimal_size

__all__ = [
    "CacheNotWritableError",
    "DamagedFileError",
    "DiskFullError",
    "DownloadProgress",
    "Fetched",
    "FileProgress",
    "GatedError",
    "HubError",
    "HubUnreachableError",
    "LockHeldError",
    "NoSuchModelError",
    "NotCachedError",
    "Preflight",
    "RateLimitError",
    "TokenError",
    "cached_snapshot",
    "download",
    "fetch_file",
    "offline",
    "preflight",
]

#: Bytes that must stay free on the disk after a download, because a full system volume is worse than a failed run.
SPARE_BYTES = 1 << 30
_PLAN = "plan-{}"


@dataclass(frozen=True)
class Preflight:
    """The facts about a repository before its weights are fetched.

    Attributes:
        info: The repository, at the commit that every later request names.
        selection: The files that loading reads, and those that are left out.
        headers: The parameters, bytes and dtypes of the weights, from their headers; None without safetensors.
        missing_bytes: The bytes that the cache lacks.
        free_bytes: The free bytes on the cache's disk.
        token: Whether a token was found. The token itself is never shown.
        dtype: The dtype in which weights are loaded; `"auto"` for the stored one.
    """

    info: RepoInfo
    selection: Selection
    headers: Headers | None
    missing_bytes: int
    free_bytes: int
    token: bool
    dtype: str = "auto"

    @property
    def repo(self) -> str:
        """Return the id of the repository as the user spells it."""
        return self.info.repo

    @property
    def revision(self) -> str:
        """Return the commit that every later request names, in 40 hexadecimal digits."""
        return self.info.commit

    @property
    def files(self) -> dict[str, int]:
        """Return the sizes in bytes, by name, of the files that loading reads."""
        return {name: file.size or 0 for name, file in self.selection.files.items()}

    @property
    def total_bytes(self) -> int:
        """Return the total size in bytes of the files that loading reads."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Fetched:
    """A snapshot whose files are all in the cache, and what it took to fetch them.

    Attributes:
        folder: The commit's folder in the Hub's cache.
        fetched_bytes: The bytes that were transferred.
        transfer_s: The wall time in seconds until the last byte arrived.
        damaged: The names of files that were damaged and fetched again.
        unverified: The names of files whose checksum the Hub does not state.
    """

    folder: Path
    fetched_bytes: int = 0
    transfer_s: float = 0.0
    damaged: tuple[str, ...] = ()
    unverified: tuple[str, ...] = field(default=())


def offline() -> bool:
    """Return whether requests are pointless: HF_HUB_OFFLINE forbids them, or the Hub's host does not resolve.

    Without a connection the Hub's client would repeat each request six times, for 23 s in all.
    """
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _resolves(constants.ENDPOINT)


@functools.lru_cache
def _resolves(endpoint: str) -> bool:
    """Return whether an address's host resolves; True too where a proxy resolves it, or for a malformed address."""
    if not failures.is_address(endpoint):
        return True  # the request reports a malformed address
    url = urllib.parse.urlsplit(endpoint)
    if url.hostname is None or url.scheme in urllib.request.getproxies():
        return True
    try:
        socket.getaddrinfo(url.hostname, None)
    except (OSError, UnicodeError):
        return False
    return True


def preflight(repo: str, revision: str | None = None, dtype: str = "auto") -> Preflight:
    """Ask the Hub what a download would take, and measure the free disk space; no weights are fetched.

    Args:
        repo: The id of the repository.
        revision: A commit, tag or branch; None for the default branch.
        dtype: The dtype in which weights will be loaded.

    Raises:
        HubError: There is no such repository, no access, no answer, or two of its files would be one on this disk.
        PickledWeightsError: The only weights are pickles.
        SnapshotError: The index of the weights is incomplete, or the header of a weight file is damaged.
    """
    info = metadata.pinned(repo, revision)
    index = metadata.read_json(info, INDEX)
    selection = metadata.select(info, index, metadata.subfolders(info))
    if INDEX in info.files and SINGLE not in info.files and not _weight_map(index):
        raise SnapshotError(
            f"{repo}, {INDEX}: it does not say which tensor is in which file.",
            "Its upload is not complete: tell its owner, or name an older commit with --revision.",
        )
    absent = sorted({str(name) for name in _weight_map(index).values()} - info.files.keys())
    if absent and SINGLE not in selection.weights:
        raise SnapshotError(
            f"{repo}: its index names {len(absent)} weight files that the repository does not hold: "
            f"{', '.join(absent[:3])}{' ...' if len(absent) > 3 else '.'}",
            "Its upload is not complete: tell its owner, or name an older commit with --revision.",
        )
    if selection.pickled:
        size = sum(info.files[name].size or 0 for name in selection.weights)
        raise PickledWeightsError(
            f"{repo}: only pickled weights ({', '.join(selection.weights[:3])}, {decimal_size(size)}), and reading a "
            "pickle can run its code. Nothing was fetched.",
            f"Look for a safetensors revision ({failures.endpoint()}/{repo}/discussions) and name it with --revision, "
            "or convert them in a place you trust with save_pretrained(). mpsprobe predict needs no weights.",
        )
    safe = [name for name in selection.weights if name.endswith(".safetensors")]
    headers = metadata.read_headers(info, safe) if safe else None
    with failures.worded(About(repo, revision)):
        cache = hub_cache()
        free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
        if clashes := metadata.collisions(selection.files):
            _refuse_clashes(info, clashes, cache)
    return Preflight(
        info,
        selection,
        headers,
        Download(info, selection.files.values()).missing_bytes(),
        free,
        failures.has_token(),
        dtype,
    )


def _refuse_clashes(info: RepoInfo, clashes: list[tuple[str, str]], cache: Path) -> None:
    """Refuse a repository with names that differ only in case, if the cache's disk ignores case.

    Raises:
        HubError: The disk does not distinguish two of the names.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mpsprobe-Case-", dir=cache) as made:
        apart = not Path(made.replace("mpsprobe-Case-", "mpsprobe-cASE-")).exists()
    if not apart:
        first, second = clashes[0]
        raise HubError(
            f"{info.repo}: {first} and {second} are one file on the disk of {cache}, which knows no case.",
            "Set HF_HOME to a volume that is case-sensitive (Disk Utility makes one), or tell the model's owner.",
        )


def _weight_map(index: dict[str, object]) -> dict[str, object]:
    found = index.get("weight_map")
    return found if isinstance(found, dict) else {}


def download(
    plan: Preflight,
    report: Callable[[DownloadProgress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Fetch what a preflight planned into the Hub's cache, resuming partial files, and compare every checksum.

    Args:
        plan: The plan of the download.
        report: A function that is called about twice a second with the progress.
        say: A function that is called with lines for the user: waiting, retrying, a damaged file.

    Raises:
        DiskFullError: The files would not fit; nothing was fetched.
        HubError: A file cannot be fetched; what has been fetched is kept.
    """
    if plan.missing_bytes and plan.missing_bytes + SPARE_BYTES > plan.free_bytes:
        lack = plan.missing_bytes + SPARE_BYTES - plan.free_bytes
        raise DiskFullError(
            f"{plan.repo}: {decimal_size(plan.missing_bytes)} to download and {decimal_size(SPARE_BYTES)} to spare, "
            f"but {hub_cache()} has {decimal_size(plan.free_bytes)} free.",
            f"Free {decimal_size(lack)}, or set HF_HOME to a larger disk.",
        )
    task = Download(plan.info, plan.selection.files.values(), report, say)
    folder = task.run()
    stated = {file.name: [file.size, file.checksum] for file in plan.selection.files.values()}
    Notes(plan.repo).write(_PLAN.format(plan.revision), stated)
    unverified = tuple(file.name for file in task.files if not file.checksum)
    return Fetched(folder, task.fetched_bytes, task.transfer_s, tuple(task.damaged), unverified)


def cached_snapshot(repo: str, revision: str | None = None) -> Path:
    """Return the folder of a revision in the cache, without asking the Hub.

    Raises:
        NotCachedError: The folder does not exist, or lacks files, which the message names.
    """
    cache = RepoCache(repo)
    with failures.worded(About(repo, revision)):
        commit = cache.commit(revision)
    if commit is None or not cache.snapshot(commit).is_dir():
        raise failures.not_cached(About(repo, revision))
    folder = cache.snapshot(commit)
    if missing := missing_files(folder, repo, commit):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise NotCachedError(
            f"{repo}: {len(missing)} files of commit {commit[:12]} are not in the cache: "
            f"{', '.join(missing[:5])}{more}.",
            "Run once with the hub (without --offline, HF_HUB_OFFLINE unset): what is there is kept.",
        )
    return folder


def missing_files(folder: Path, repo: str, commit: str) -> list[str]:
    """Return the names of files that a commit's folder should hold and lacks, without asking the Hub.

    The expected names come from the plan of an earlier download and from the index of the weights; without these the
    list is empty.
    """
    wanted = list(Notes(repo).read(_PLAN.format(commit)))
    with contextlib.suppress(OSError, ValueError, RecursionError):
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        wanted += sorted({str(name) for name in _weight_map(index).values()})
    return [name for name in dict.fromkeys(wanted) if metadata.is_safe(name) and not (folder / name).exists()]


def verify_cached(folder: Path, repo: str, say: Callable[[str], None] = lambda _: None) -> list[str]:
    """Compare the files of a cached snapshot with the checksums in its blobs' names, or with those the Hub stated.

    Files without a known checksum are not compared, and files that were verified before and have not changed since
    are not read again.

    Args:
        folder: The commit's folder in the cache.
        repo: The id of the repository.
        say: A function that is called with a line for each file of more than 1 GB.

    Returns:
        The names of damaged files.
    """
    from mpsprobe.models.hub import integrity

    verified = integrity.Verified(repo)
    plan = Notes(repo).read(_PLAN.format(folder.name))
    damaged = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        blob = path.resolve()
        checksum = blob.name if blob.parent.name == "blobs" else _planned_checksum(plan, folder, path)
        if not integrity.is_checksum(checksum) or verified.knows(blob, checksum):
            continue
        if blob.stat().st_size > 1_000_000_000:
            say(f"{repo}, {path.name}: checking its checksum")
        if integrity.checksum_of(blob, checksum) == checksum:
            verified.add(blob, checksum)
        else:
            damaged.append(path.relative_to(folder).as_posix())
    verified.save()
    return damaged


def _planned_checksum(plan: dict[str, object], folder: Path, path: Path) -> str:
    """Return the checksum that the Hub stated for a file that is no link to a blob; empty when it stated none."""
    stated = plan.get(path.relative_to(folder).as_posix())
    return str(stated[1]) if isinstance(stated, list) and len(stated) == 2 else ""


def fetch_file(repo: str, name: str, revision: str | None = None, *, offline: bool = False) -> Path | None:
    """Return the path of one file of a repository, from the cache or the Hub; None when there is no such file.

    The cache is used when requests are forbidden, and when the Hub cannot be reached.

    Args:
        repo: The id of the repository.
        name: The name of the file.
        revision: A commit, tag or branch; None for the default branch.
        offline: Whether to use only the cache.

    Raises:
        NotCachedError: Only the cache may be used, and it does not show whether there is such a file.
        HubError: The file cannot be fetched.
    """
    about = About(repo, revision, name)
    cache = RepoCache(repo)
    if offline or _forbidden():
        with failures.worded(about):
            _validate(repo)
            commit = cache.commit(revision)
            path = cache.snapshot(commit) / name if commit else None
            if path is not None and path.is_file():
                return path
            if commit and _known_absent(cache, commit, name):
                return None
        raise failures.not_cached(about)
    try:
        info = metadata.pinned(repo, revision)
    except HubUnreachableError:  # the cached file is used instead
        commit = cache.commit(revision)
        path = cache.snapshot(commit) / name if commit else None
        if commit and path is not None and path.is_file():
            return path
        if commit and _known_absent(cache, commit, name):
            return None
        raise
    file = info.files.get(name)
    if file is None:
        return None
    return Download(info, [file]).run() / name


def _forbidden() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _validate(repo: str) -> None:
    from huggingface_hub import utils

    utils.validate_repo_id(repo)  # type: ignore[attr-defined]


def _known_absent(cache: RepoCache, commit: str, name: str) -> bool:
    """Return whether a commit is known to lack a file: by the client's mark, or by the plan of a download."""
    if (cache.folder / ".no_exist" / commit / name).exists():
        return True
    plan = Notes(cache.repo).read(_PLAN.format(commit))
    return bool(plan) and name not in plan
