"""Download files of one commit into the Hub's cache: resumable, and compared with their checksums.

Bytes go to `blobs/CHECKSUM.incomplete`, where a later run (or process) continues. A file is put into place only
when its size and checksum match the Hub's, so that nothing damaged is ever read as a model.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpsprobe.models.hub import failures, integrity, locks, transport
from mpsprobe.models.hub.cache import RepoCache, hub_cache
from mpsprobe.models.hub.failures import About, DamagedFileError, DiskFullError, HubError, RateLimitError
from mpsprobe.models.hub.integrity import RunningChecksum, Verified
from mpsprobe.models.hub.metadata import WORKERS, RepoFile, RepoInfo
from mpsprobe.quantities import decimal_size

#: The number of consecutive failed requests, almost without progress, after which a file is given up.
TRIES = 5
#: The wait in seconds after the first of these failures, doubled for each further one.
PAUSE = 1.0
#: The number of times that a file with a wrong checksum is fetched.
ATTEMPTS = 3
#: The longest wait in seconds that a Hub may request.
LONGEST_WAIT = 120.0
#: The number of checksums computed at once; more would slow the transfers.
_CHECKERS = 2
#: A request succeeds if it brings this many bytes, or a thousandth of the file.
_LEAST_GAIN = 1 << 16
#: The number of seconds over which the throughput is measured.
_WINDOW = 10.0


@dataclass(frozen=True)
class FileProgress:
    """How many bytes of one file are in the cache, and what is being done with it.

    Attributes:
        name: The path of the file in the repository.
        done: The number of bytes that have arrived.
        total: The size of the file in bytes.
        stage: `"waiting"`, `"fetching"`, `"checking"` or `"done"`.
    """

    name: str
    done: int
    total: int
    stage: str


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is: its bytes, its rate and its files.

    Attributes:
        files: The files of at least 1 MB, largest first.
        done: The number of bytes of all files that have arrived.
        total: The size of all files in bytes.
        rate: The throughput of the last ten seconds in bytes per second.
        left_s: The remaining time in seconds at that throughput; None while nothing arrives.
    """

    files: tuple[FileProgress, ...]
    done: int
    total: int
    rate: float
    left_s: float | None


class _StoppedError(Exception):
    """The download of a file stops because another one failed or the user interrupted the run."""


class Download:
    """Fetch the files of one commit into the Hub's cache, several at a time.

    Args:
        info: The repository at its commit.
        files: The files to fetch.
        report: A function that is called about twice a second with the progress.
        say: A function that is called with lines for the user: waiting, retrying, fetching a damaged file again.
    """

    def __init__(
        self,
        info: RepoInfo,
        files: Iterable[RepoFile],
        report: Callable[[DownloadProgress], None] | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.info = info
        self.files = sorted(files, key=lambda file: -(file.size or 0))
        self.cache = RepoCache(info.repo)
        self.fetched_bytes = 0  #: bytes that were transferred
        self.damaged: list[
            str
        ] = []  #: files that were found, or arrived, with wrong bytes, and were fetched again
        self.transfer_s = 0.0  #: wall time in seconds until the last byte arrived
        self._report = report
        self._say = say
        self._verified = Verified(info.repo)
        self._stop = threading.Event()
        self._checking = threading.Semaphore(_CHECKERS)
        self._lock = threading.Lock()
        self._done = dict.fromkeys((file.name for file in self.files), 0)
        self._stage = dict.fromkeys(self._done, "waiting")
        self._history: deque[tuple[float, int]] = deque()

    def run(self) -> Path:
        """Fetch what is missing, compare everything with its checksum, and return the commit's folder.

        Raises:
            HubError: A file cannot be fetched, and it was the first to fail; what has been fetched is kept.
        """
        self._begun = time.monotonic()
        with self._reported(), concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            futures = [pool.submit(self._obtain_worded, file) for file in self.files]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException as problem:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise self._first_failure(futures, problem) from None
            finally:
                self._verified.save()
        with contextlib.suppress(
            OSError
        ):  # a shared cache may be read-only, in which case only offline names are lost
            self.cache.remember(self.info.asked, self.info.commit)
        folder = self.cache.snapshot(self.info.commit)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def missing_bytes(self) -> int:
        """Return the number of bytes that the cache lacks, judged by the sizes of its files only."""
        return sum(max(0, (file.size or 0) - self._there(file)) for file in self.files)

    def _there(self, file: RepoFile) -> int:
        """Return how many bytes of a file the cache holds, judged by the sizes of its files only."""
        for path in (self.cache.snapshot(self.info.commit) / file.name, *self._blobs(file)):
            with contextlib.suppress(OSError):
                if path.stat().st_size == (file.size or path.stat().st_size):
                    return file.size or 0
        with contextlib.suppress(OSError):
            return min(self._partial(file).stat().st_size, file.size or 0)
        return 0

    def _blobs(self, file: RepoFile) -> list[Path]:
        return [self.cache.blob(file.checksum)] if file.checksum else []

    def _partial(self, file: RepoFile) -> Path:
        return self.cache.blob(f"{file.checksum}.incomplete")

    @staticmethod
    def _first_failure(
        futures: list[concurrent.futures.Future[None]], problem: BaseException
    ) -> BaseException:
        """Return the failure that made the other downloads stop, if `problem` is only such a stop."""
        if not isinstance(problem, _StoppedError):
            return problem
        for future in futures:
            if future.done() and not future.cancelled():
                found = future.exception()
                if found is not None and not isinstance(found, _StoppedError):
                    return found
        return problem

    def _obtain_worded(self, file: RepoFile) -> None:
        try:
            with failures.worded(About(self.info.repo, self.info.commit, file.name)):
                self._obtain(file)
        except BaseException:
            self._stop.set()
            raise

    def _obtain(self, file: RepoFile) -> None:
        """Put one complete file into the commit's folder, fetching it if the cache has no intact copy."""
        if not integrity.is_checksum(file.checksum) or file.size is None:
            file = self._looked_up(file)
        path = self.cache.snapshot(self.info.commit) / file.name
        blob = self.cache.blob(file.checksum)
        if (self._is_whole(blob, file) and self._is_link_to(path, blob)) or self._is_own_copy(path, file):
            _refuse_pointer(file, path, self.info)
            return
        about = About(self.info.repo, self.info.commit, file.name)
        partial = self._partial(file)
        with locks.held(
            self.cache.lock(file.checksum), about, lambda: _size(partial) or 0, self._say, self._stop.is_set
        ):
            if not self._is_whole(blob, file):
                if blob.exists() or blob.is_symlink():
                    self._tell_damaged(file, "in the cache")
                    self._remove(blob, path)
                self._fetch(file, partial, blob)
            _refuse_pointer(file, blob, self.info)
            self._linked(file, blob)

    def _is_own_copy(self, path: Path, file: RepoFile) -> bool:
        """Return whether the commit's folder holds the complete file itself, as on disks without links."""
        return path.is_file() and not path.is_symlink() and self._is_whole(path, file)

    def _is_link_to(self, path: Path, blob: Path) -> bool:
        try:
            return path.samefile(blob)
        except OSError:
            return False

    def _linked(self, file: RepoFile, blob: Path) -> None:
        self.cache.link(self.info.commit, file.name, blob)
        self._set(file, file.size or 0, "done")

    def _looked_up(self, file: RepoFile) -> RepoFile:
        """Return the file with the size and checksum that a HEAD request states, where the listing gives none.

        Raises:
            NotTheHubError: The reply has no size, or no usable ETag.
        """
        from huggingface_hub import get_hf_file_metadata, get_token

        found = get_hf_file_metadata(self.info.url(file.name), token=get_token())
        if found.etag is None or found.size is None:
            raise transport.NotTheHubError("no ETag or no Content-Length")
        checksum = file.checksum or found.etag.lower()
        if not all(letter.isalnum() or letter in "-_." for letter in checksum):
            raise transport.NotTheHubError(f"ETag {found.etag[:60]!r}")
        return RepoFile(file.name, found.size if file.size is None else file.size, checksum)

    def _is_whole(self, blob: Path, file: RepoFile) -> bool:
        """Return whether a blob has the right size and checksum; an earlier check of the unchanged blob counts.

        Without a known checksum the size decides.
        """
        if _size(blob) != file.size or not blob.is_file():
            return False
        if not integrity.is_checksum(file.checksum) or self._verified.knows(blob, file.checksum):
            self._set(file, file.size or 0, "done")
            return True
        return self._check(blob, file)

    def _check(self, path: Path, file: RepoFile) -> bool:
        """Return whether a file's bytes match its checksum, and record it if they do."""
        with self._checking:
            self._set(file, file.size or 0, "checking")
            found = integrity.checksum_of(path, file.checksum, self._stop_if_asked)
        if found != file.checksum:
            return False
        self._verified.add(path, file.checksum)
        return True

    def _tell_damaged(self, file: RepoFile, where: str) -> None:
        with self._lock:
            self.damaged.append(file.name)
        self._say(f"{self.info.repo}, {file.name}: damaged {where}; fetched again")

    @staticmethod
    def _remove(*paths: Path) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _fetch(self, file: RepoFile, partial: Path, blob: Path) -> None:
        """Transfer the bytes of one file, and put them into place when their checksum is right.

        Raises:
            DamagedFileError: The checksum was wrong `ATTEMPTS` times.
        """
        partial.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, ATTEMPTS + 1):
            stated = integrity.is_checksum(file.checksum)
            checksum = integrity.RunningChecksum(file.checksum, file.size or 0) if stated else None
            self._transfer(file, partial, checksum)
            if checksum is None or checksum.is_right:
                partial.replace(blob)
                if checksum is not None:
                    self._verified.add(blob, file.checksum)
                return
            self._remove(partial)
            if attempt < ATTEMPTS:
                self._tell_damaged(file, "on the way")
        kind = "sha256" if len(file.checksum) == 64 else "git blob id"
        raise DamagedFileError(
            f"{self.info.repo}, {file.name}: {ATTEMPTS} times the bytes that arrived were not those of its "
            f"{kind} {file.checksum[:12]}...",
            "Something on the way changes files: check HF_ENDPOINT, proxies and the disk. The copy was removed.",
        )

    def _transfer(self, file: RepoFile, partial: Path, checksum: RunningChecksum | None) -> None:
        """Append to the incomplete file until it has its full size, and feed every byte to `checksum`, if any.

        Failed requests are repeated; `_pause_or_raise` decides how often.
        """
        size = file.size or 0
        failed = 0
        while True:
            begin = _size(partial) or 0
            if begin > size:
                self._remove(partial)
                begin = 0
            if checksum is not None and begin:
                self._set(file, begin, "checking")
                checksum.go_to(partial, begin, self._stop_if_asked)
            self._set(file, begin, "fetching")
            if begin == size and partial.exists():
                return
            try:
                self._request(file, partial, begin, checksum)
                problem: BaseException | None = None
            except _StoppedError:
                raise
            except Exception as caught:
                problem = caught
            if problem is None and (_size(partial) or 0) == size:
                return
            gained = (_size(partial) or 0) - begin
            failed = 1 if gained >= max(_LEAST_GAIN, size // 1000) else failed + 1
            self._stop_if_asked()
            self._pause_or_raise(file, partial, problem, failed)

    def _pause_or_raise(
        self, file: RepoFile, partial: Path, problem: BaseException | None, failed: int
    ) -> None:
        """Wait before the next request where a retry makes sense; else raise the error.

        An incomplete file with bytes that are not those of the Hub's file is removed first.

        Raises:
            DiskFullError: The disk is full.
            HubError: The Hub refuses, asks for a wait of more than `LONGEST_WAIT`, or `TRIES` requests have failed.
        """
        about = About(self.info.repo, self.info.commit, file.name)
        there, size = _size(partial) or 0, file.size or 0
        if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
            more = sum((one.size or 0) - self._done[one.name] for one in self.files)
            raise DiskFullError(
                f"{about}: the disk of {hub_cache()} is full at byte {there:,} of {size:,}.",
                f"Free {decimal_size(more)}, or set HF_HOME to a larger disk; what was fetched is kept.",
            ) from problem
        status = getattr(getattr(problem, "response", None), "status_code", 0)
        known = failures.translate(about, problem) if problem is not None else None
        if problem is not None and known is None:
            raise problem
        wait = PAUSE * 2 ** (failed - 1)
        if status == 416 and there:
            self._remove(partial)  # these bytes are not the beginning of the Hub's file
        elif isinstance(known, RateLimitError):
            wait = known.seconds if known.seconds is not None else 4 * wait
            if wait > LONGEST_WAIT:
                raise known from problem
        elif isinstance(problem, transport.NotTheHubError):
            self._remove(partial)
        elif status and status < 500 and status not in (408, 416):
            raise known or HubError(f"{about}: status {status}.") from problem
        if failed >= TRIES:
            if known is None or not status:
                reason = known.what.partition(": ")[2] if known else "the answer ended too early."
                hint = known.hint if known else "Check the connection and the proxies; a second run resumes."
                raise failures.HubUnreachableError(
                    f"{about}: given up at byte {there:,} of {size:,} after {failed} tries: {reason}", hint
                ) from problem
            raise known from problem
        reason = known.what.rpartition(": ")[2] if known is not None else "the answer ended too early"
        self._say(f"{about}: {reason.rstrip('.')} at byte {there:,} of {size:,}; next try in {wait:.0f} s")
        if self._stop.wait(wait):
            raise _StoppedError

    def _request(self, file: RepoFile, partial: Path, begin: int, checksum: RunningChecksum | None) -> None:
        """Request the bytes of a file from `begin` to its end, and append them to the incomplete file.

        Raises:
            NotTheHubError: The reply is another range, a page of HTML, a Git LFS pointer, or longer than the file.
        """
        size = file.size or 0
        with transport.get(self.info.url(file.name), begin) as reply:
            stated = reply.headers.get("Content-Range") or ""
            if begin and reply.status != 206:
                begin = 0  # this server does not support ranges, so it sends the whole file
            elif begin and not stated.startswith(f"bytes {begin}-"):
                raise transport.NotTheHubError(f"Content-Range {stated[:60]!r} for bytes from {begin}")
            kind = str(reply.headers.get("Content-Type") or "")
            if kind.startswith("text/html") and not file.name.endswith((".html", ".htm")):
                raise transport.NotTheHubError("a page of HTML in place of the file")
            with partial.open("r+b" if begin else "wb", buffering=0) as sink:
                sink.seek(begin)
                if checksum is not None:
                    checksum.go_to(partial, begin)
                done = begin
                for chunk in reply.chunks:
                    if not done and size > _POINTER and chunk.startswith(integrity.POINTER):
                        raise transport.NotTheHubError("a Git LFS pointer in place of the file")
                    if done + len(chunk) > size:
                        raise transport.NotTheHubError(f"more than the {size:,} bytes of this file")
                    _write(sink.fileno(), chunk)
                    if checksum is not None:
                        checksum.add(chunk)
                    done += len(chunk)
                    self._set(file, done, "fetching", len(chunk))

    def _stop_if_asked(self, _count: int = 0) -> None:
        if self._stop.is_set():
            raise _StoppedError

    def _set(self, file: RepoFile, done: int, stage: str, fetched: int = 0) -> None:
        self._stop_if_asked()
        with self._lock:
            self._done[file.name] = done
            self._stage[file.name] = stage
            if fetched:
                self.fetched_bytes += fetched
                self.transfer_s = time.monotonic() - self._begun

    def progress(self) -> DownloadProgress:
        """Return the bytes that have arrived, the rate and the stage of each file, at this moment."""
        now = time.monotonic()
        with self._lock:
            done, stages, fetched = dict(self._done), dict(self._stage), self.fetched_bytes
        self._history.append((now, fetched))
        while len(self._history) > 2 and now - self._history[0][0] > _WINDOW:
            self._history.popleft()
        then, before = self._history[0]
        rate = (fetched - before) / (now - then) if now > then else 0.0
        total = sum(file.size or 0 for file in self.files)
        there = sum(done.values())
        shown = tuple(
            FileProgress(file.name, done[file.name], file.size or 0, stages[file.name])
            for file in self.files
            if (file.size or 0) >= 1_000_000
        )
        return DownloadProgress(shown, there, total, rate, (total - there) / rate if rate > 0 else None)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Report the progress twice a second while the block runs, and once at its end."""
        if self._report is None:
            yield
            return
        report, over = self._report, threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                report(self.progress())

        thread = threading.Thread(target=watch, daemon=True, name="mpsprobe-download")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            report(self.progress())


#: The greatest size of a Git LFS pointer in bytes, by its specification.
_POINTER = 1024


def _refuse_pointer(file: RepoFile, path: Path, info: RepoInfo) -> None:
    """Refuse a small file whose content in the repository is a Git LFS pointer, because its upload is incomplete.

    Raises:
        DamagedFileError: The file is a pointer of Git LFS.
    """
    if (file.size or 0) > _POINTER:
        return
    with path.open("rb") as opened:
        if opened.read(len(integrity.POINTER)) == integrity.POINTER:
            raise DamagedFileError(
                f"{info.repo}, {file.name}: in the repository it is a Git LFS pointer, not the file.",
                "Its upload is not complete: tell its owner, or name an older commit with --revision.",
            )


def _write(handle: int, chunk: bytes) -> None:
    """Write all of a chunk, because one unbuffered write may take only a part of it (on a nearly full disk)."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
