"""Errors of the Hugging Face Hub and its cache: one class and one line for each kind.

Each line names the repository, the file and the HTTP status where there is one, and what to do. The exit code is 3,
because nothing was learnt about the model.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mpsprobe.errors import TargetError


class HubError(TargetError):
    """A repository or its files cannot be fetched from the Hub."""

    exit_code = 3


class NoSuchModelError(HubError):
    """The repository, revision or file does not exist or has an unusable name, or this user may not see it."""


class GatedError(HubError):
    """The repository requires its licence to be accepted, and the token, if any, belongs to an account that has not."""


class TokenError(HubError):
    """The token is invalid, or may not read this repository."""


class RateLimitError(HubError):
    """The Hub answers that requests come too fast, and asks to wait.

    Attributes:
        seconds: The requested time in seconds; None where it is not stated.
    """

    seconds: float | None = None


class HubUnreachableError(HubError):
    """The Hub, or what answers in its place, sends no usable reply, and the cache lacks what is needed."""


class NotCachedError(HubUnreachableError):
    """The Hub must not be asked, and the cache lacks what is needed."""


class DiskFullError(HubError):
    """The download does not fit on the disk, or filled it."""


class CacheNotWritableError(HubError):
    """The cache cannot be written: no permission, a file where a folder belongs, or an error of the disk."""


class DamagedFileError(HubError):
    """The bytes of a file do not match the Hub's checksum, even when fetched again, or are a Git LFS pointer."""


class LockHeldError(HubError):
    """Another process holds the lock of a file and makes no progress."""


@dataclass(frozen=True)
class About:
    """The repository and file that a request is for, to be named in the message of its failure.

    Attributes:
        repo: The id of the repository.
        revision: The requested commit, tag or branch; None for the default branch.
        file: The name of the file; `""` for requests about the whole repository.
    """

    repo: str
    revision: str | None = None
    file: str = ""

    def __str__(self) -> str:
        """Return the repository and, where there is one, the file: `owner/name, file`."""
        return f"{self.repo}, {self.file}" if self.file else self.repo


@contextlib.contextmanager
def worded(about: About) -> Iterator[None]:
    """Translate the exceptions of huggingface_hub, its HTTP library and the file system into `HubError`.

    Others pass unchanged. While the block runs, the client's own warnings about retries are silenced.

    Raises:
        HubError: The block raised an exception that `translate` knows.
    """
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except HubError:
        raise
    except Exception as problem:
        found = translate(about, problem)
        if found is None:
            raise
        raise found from problem
    finally:
        logger.setLevel(level)


def translate(about: About, problem: BaseException) -> HubError | None:
    """Return the `HubError` for an exception of the Hub, the network or the disk; None for any other."""
    from huggingface_hub import errors

    from mpsprobe.models.hub import transport

    if isinstance(problem, errors.HFValidationError):
        return NoSuchModelError(
            f"{about.repo!r} is not a repository id.", "Write it as owner/name, or give a local folder."
        )
    cause = problem.__cause__
    if isinstance(problem, errors.LocalEntryNotFoundError) and cause is not None:
        # the client's summary of a failed HEAD request, whose cause holds the status and the reason
        return translate(about, cause) or _unreachable(about, cause)
    if isinstance(problem, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return not_cached(about)
    if isinstance(problem, transport.UnusableTokenError):
        return TokenError(
            f"{about}: the token holds characters that no token has.",
            f"Copy it anew from {_TOKENS} into HF_TOKEN.",
        )
    if isinstance(problem, transport.StalledTransferError):
        return HubUnreachableError(
            f"{about}: {endpoint()} sends next to nothing ({problem}).",
            "Check the connection; a second run resumes. MPSPROBE_STALL_TIMEOUT sets the limit in seconds.",
        )
    if isinstance(problem, transport.library().TooManyRedirects):
        return HubUnreachableError(
            f"{about}: the hub redirects in a circle.",
            "Check HF_ENDPOINT and the proxy variables: something between here and the hub answers in its place.",
        )
    response = getattr(problem, "response", None)
    if response is not None and hasattr(response, "status_code"):
        return _of_status(about, response)
    if isinstance(problem, errors.FileMetadataError | transport.NotTheHubError) or _is_bad_json(problem):
        return _not_the_hub(about, problem)
    if isinstance(problem, transport.network_errors()):
        return _unreachable(about, problem)
    if isinstance(problem, OSError):
        return _of_disk(about, problem)
    return None


def is_address(text: str) -> bool:
    """Return whether a text is an http or https address with a host, a valid port if any, and no spaces."""
    try:
        url = urlsplit(text)
        whole = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        return False
    return whole and not any(letter.isspace() for letter in text)


def check_endpoint(about: About) -> None:
    """Refuse a value of HF_ENDPOINT that is not the address of a web server.

    Raises:
        HubUnreachableError: HF_ENDPOINT is not the address of a web server.
    """
    if not is_address(endpoint()):
        raise HubUnreachableError(
            f"{about}: HF_ENDPOINT is {endpoint()[:80]!r}, which is no address of a web server.",
            "Write it as https://huggingface.co, or unset it.",
        )


def disabled(about: About) -> HubError:
    """Return the error for a repository that the Hub has disabled, so that nobody can read it."""
    return HubError(
        f"{about}: the hub has disabled this repository.",
        f"Nobody can fetch it; {endpoint()}/{about.repo} may say why. Choose another one.",
    )


def _is_bad_json(problem: BaseException) -> bool:
    return isinstance(problem, ValueError) and "JSON" in type(problem).__name__


def is_passing(problem: BaseException) -> bool:
    """Return whether a network error may pass when the request is repeated.

    A broken connection may; a timeout, a refused connection, an unknown host or a bad certificate may not.
    """
    text = str(problem)
    return "imeout" not in type(problem).__name__ and not any(
        word in text
        for word in ("refused", "Name or service", "nodename", "Temporary failure", "certificate")
    )


def not_cached(about: About) -> NotCachedError:
    """Return the error for something that is not in the cache while the Hub must not be asked."""
    at = f" at revision {about.revision}" if about.revision else ""
    return NotCachedError(
        f"{about}{at}: not in the cache, and the hub is not asked (--offline, HF_HUB_OFFLINE, or no connection "
        f"to {endpoint()}).",
        "Ask it once: what is fetched is kept. Or give a local folder.",
    )


def endpoint() -> str:
    """Return the address of the Hub: HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT).rstrip("/")


def has_token() -> bool:
    """Return whether a token was found (in HF_TOKEN, or by `hf auth login`)."""
    from huggingface_hub import get_token

    return get_token() is not None


def retry_after(headers: Any) -> float | None:
    """Return the seconds that a reply asks the client to wait; None where it states no time.

    It reads `Retry-After` (seconds or a date, RFC 9110), else the Hub's `RateLimit` (`"api";r=0;t=55`).
    """
    given = headers.get("Retry-After")
    if given:
        try:
            seconds = float(given)
            return max(0.0, seconds) if math.isfinite(seconds) else None
        except ValueError:
            with contextlib.suppress(ValueError, TypeError):
                date = parsedate_to_datetime(given)
                return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())
    for part in (headers.get("RateLimit") or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isdigit():
            return float(value)
    return None


_TOKENS = "https://huggingface.co/settings/tokens"


def _of_status(about: About, response: Any) -> HubError:
    """Return the error for a reply of the Hub or a proxy, from its status, error code and message."""
    status = int(response.status_code)
    code = response.headers.get("X-Error-Code") or ""
    message = " ".join((response.headers.get("X-Error-Message") or "").split())[:200]
    if code == "GatedRepo":
        held = "this token's account has no access" if has_token() else "no token was found"
        return GatedError(
            f"{about}: the hub answers {status}: the repository is gated, and {held}.",
            f"Accept the licence at {endpoint()}/{about.repo}, then set HF_TOKEN (or run hf auth login).",
        )
    if code == "RevisionNotFound":
        named = about.revision or "main"
        return NoSuchModelError(
            f"{about}: the hub answers {status}: there is no revision {named}.",
            "Name a branch, tag or commit. A commit that was there is gone when a branch is force-pushed: run again.",
        )
    if code == "EntryNotFound" or (status == 404 and about.file):
        return NoSuchModelError(
            f"{about}: the hub answers {status}: this file is not in the repository at revision "
            f"{about.revision or 'main'}.",
            "Run again: the repository may have changed. Else tell its owner.",
        )
    if message == "Access to this resource is disabled.":
        return disabled(about)
    if status == 407:
        return HubUnreachableError(
            f"{about}: the proxy answers 407: it asks for a name and a password.",
            "Set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT.",
        )
    if status == 511:
        return HubUnreachableError(
            f"{about}: the network answers 511: it asks to sign in.", "Open a page in a browser and sign in."
        )
    if status == 401 and message.startswith("Invalid credentials"):
        return TokenError(
            f"{about}: the hub answers 401: the token is not valid.",
            f"Set HF_TOKEN to a valid token ({_TOKENS}), or unset it and run hf auth logout.",
        )
    if status == 401 or code == "RepoNotFound":
        held = "this token may not see it" if has_token() else "no token was found"
        return NoSuchModelError(
            f"{about}: the hub answers {status}: no such model, or it is private and {held}.",
            f"Check the spelling; for a private model set HF_TOKEN to a token that may read it ({_TOKENS}).",
        )
    if status == 403:
        held = "this token" if has_token() else "a request without a token"
        return TokenError(
            f"{about}: the hub answers 403: {held} may not read it{f' ({message})' if message else ''}.",
            f"Set HF_TOKEN to a token with read access to it ({_TOKENS}).",
        )
    if status == 429:
        return _rate_limit(about, retry_after(response.headers))
    if status == 416:
        return HubUnreachableError(
            f"{about}: the hub answers 416 to the rest of a file that it has not sent whole.",
            "Run again; if it stays so, set HF_ENDPOINT to another address of the hub.",
        )
    if status >= 500:
        return HubUnreachableError(
            f"{about}: the hub answers {status}{f' ({message})' if message else ''}.",
            "Its fault, not yours: try again later (https://status.huggingface.co). What was fetched is kept.",
        )
    return HubError(
        f"{about}: the hub answers {status}{f' ({message})' if message else ''}.",
        f"Look at {endpoint()}/{about.repo} in a browser.",
    )


def _rate_limit(about: About, seconds: float | None) -> RateLimitError:
    wait = f"Wait {seconds:.0f} s" if seconds is not None else "Wait some minutes"
    login = "" if has_token() else " With HF_TOKEN set the limit is higher."
    found = RateLimitError(
        f"{about}: the hub answers 429: too many requests from here.",
        f"{wait}, then run again; what was fetched is kept.{login}",
    )
    found.seconds = seconds
    return found


def _not_the_hub(about: About, problem: BaseException) -> HubUnreachableError:
    gist = (str(problem).strip().splitlines() or [""])[0][:160]
    return HubUnreachableError(
        f"{about}: {endpoint()} answers, but not as the hub does ({gist}).",
        "Check HF_ENDPOINT, proxy variables and sign-in pages of the network.",
    )


#: Texts of OpenSSL's errors about an answer that is not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "wrong version number", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "HTTP_REQUEST",
           "PACKET_LENGTH_TOO_LONG", "packet length too long", "record layer failure")  # fmt: skip
#: Exceptions of HTTP libraries for addresses that cannot be requested.
_NO_ADDRESS = ("InvalidSchema", "MissingSchema", "InvalidURL", "LocationParseError", "UnsupportedProtocol",
               "LocalProtocolError")  # fmt: skip


def _unreachable(about: About, problem: BaseException) -> HubUnreachableError:
    name = type(problem).__name__
    text = str(problem)
    if any(word in text for word in _NO_TLS):
        return HubUnreachableError(
            f"{about}: {endpoint()} speaks no TLS.",
            "Check HF_ENDPOINT: http:// in place of https://, or another port.",
        )
    if name in _NO_ADDRESS:
        return HubUnreachableError(
            f"{about}: {endpoint()} leads to an address that is none ({text.splitlines()[0][:100]}).",
            "Check HF_ENDPOINT and the proxy variables: something between here and the hub answers in its place.",
        )
    if "CERTIFICATE" in text.upper() or "SSL" in name or "SSL" in text:
        return HubUnreachableError(
            f"{about}: the certificate of {endpoint()} is not accepted.",
            "Set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to your network's certificates, and check the clock.",
        )
    if "Proxy" in name:
        return HubUnreachableError(
            f"{about}: the proxy does not let requests to {endpoint()} through.",
            "Check HTTPS_PROXY and NO_PROXY.",
        )
    if "Timeout" in name or "timed out" in text:
        return HubUnreachableError(
            f"{about}: {endpoint()} sends nothing within the time limit.",
            "Check the connection; a second run resumes. HF_HUB_DOWNLOAD_TIMEOUT sets the limit in seconds.",
        )
    broken = name in (
        "BrokenTransferError", "ChunkedEncodingError", "RemoteProtocolError", "ReadError", "IncompleteRead",
        "ContentDecodingError", "DecodingError",
    )  # fmt: skip
    return HubUnreachableError(
        f"{about}: the connection to {endpoint()} {'broke' if broken else 'cannot be made'} ({name}).",
        "Check the connection; a second run resumes what was begun.",
    )


def _of_disk(about: About, problem: OSError) -> HubError | None:
    from huggingface_hub import constants

    where = problem.filename or constants.HF_HUB_CACHE
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"{about}: the disk of {constants.HF_HUB_CACHE} is full.",
            "Free space, or set HF_HOME to a larger disk; what was fetched is kept.",
        )
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        owner = _owner(Path(os.fsdecode(where)))
        return CacheNotWritableError(
            f"{about}: {os.fsdecode(where)} cannot be written: {problem.strerror}{owner}.",
            "Make it writable for you, or set HF_HOME to a folder of yours.",
        )
    if problem.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return CacheNotWritableError(
            f"{about}: {os.fsdecode(where)}: {problem.strerror}.",
            "Move it away, or set HF_HOME to another folder.",
        )
    if problem.errno == errno.EIO:
        return CacheNotWritableError(
            f"{about}: {os.fsdecode(where)}: the disk reports an error ({problem.strerror}).",
            "Check the disk, or set HF_HOME to another one.",
        )
    return None


def _owner(path: Path) -> str:
    """Return `; it belongs to NAME` for the nearest existing folder of a path; empty if it is the user's own."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError, KeyError, ImportError):
            import pwd

            uid = folder.stat().st_uid
            return f"; it belongs to {pwd.getpwuid(uid).pw_name}" if uid != os.geteuid() else ""
    return ""
