"""Stream requests to the Hub through the HTTP library that the installed huggingface_hub uses.

huggingface_hub below 1.0 uses requests, later ones httpx (or a package of another name with the same interface).
Its session provides proxies, certificates, tokens and the offline switch. The client's own `hf_hub_download` is not
used for files, because releases from 1.x on restart each file after an interruption, and none compares checksums.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mpsprobe.errors import UsageError

#: The greatest number of bytes that a read returns, which an interrupted transfer may lose.
# More would be allocated anew for every read (glibc maps and unmaps it), which costs as much as the copy itself.
CHUNK = 1 << 18
#: The rate in bytes per second below which a connection is given up after `MPSPROBE_STALL_TIMEOUT` seconds.
LEAST_RATE = 1000
#: The default of `MPSPROBE_STALL_TIMEOUT` in seconds.
_STALL_S = 60.0


class NotTheHubError(Exception):
    """A reply is not one that the Hub would give, so something else answered in its place."""


class UnusableTokenError(Exception):
    """The token holds characters outside printable ASCII, so it cannot be sent in a header."""


class StalledTransferError(TimeoutError):
    """A connection is open but transfers fewer bytes than `LEAST_RATE` allows."""


class BrokenTransferError(ConnectionError):
    """A connection ended before its answer was complete."""


@dataclass(frozen=True)
class Reply:
    """A reply to a request, whose body has not been read yet.

    Attributes:
        status: The HTTP status, 200 or 206.
        headers: The headers of the last answer in a chain of redirects; names are case-insensitive.
        chunks: The body as it arrives, at most `CHUNK` bytes at a time.
    """

    status: int
    headers: Any
    chunks: Iterator[bytes]


def seconds_of(variable: str, otherwise: float) -> float:
    """Return a time limit in seconds from an environment variable; `otherwise` when it is unset or empty.

    Raises:
        UsageError: Its value is not a positive finite number.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return otherwise
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(
            f"{variable} is {text[:40]!r}.", f"Set it to a number of seconds, such as {otherwise:g}."
        )
    return found


def library() -> Any:
    """Return the module of the HTTP client that the installed huggingface_hub uses: `requests` or `httpx`."""
    from huggingface_hub import errors

    name = errors.HTTPError.__module__.partition(".")[0]  # type: ignore[attr-defined]
    return sys.modules[name]


def network_errors() -> tuple[type[BaseException], ...]:
    """Return the exception types of connections that cannot be made, break or stall, for an `except` clause.

    They are those of the HTTP library that huggingface_hub uses, and Python's own.
    """
    module = library()
    if hasattr(module, "RequestException"):
        return (module.RequestException, ConnectionError, TimeoutError)
    return (module.HTTPError, module.InvalidURL, ConnectionError, TimeoutError)


@contextmanager
def get(url: str, begin: int = 0, end: int | None = None, limit_s: float = 0.0) -> Iterator[Reply]:
    """Open a GET request for the bytes from `begin` to `end` (exclusive; None for the rest).

    Args:
        url: The address.
        begin: The position of the first byte.
        end: The position after the last byte.
        limit_s: The seconds without data after which the request is given up; HF_HUB_DOWNLOAD_TIMEOUT where that is
            longer.

    Raises:
        UnusableTokenError: The token holds characters that no token has.
        NotTheHubError: The status of a successful reply is neither 200 nor 206.
        StalledTransferError: The body arrives too slowly; raised while it is read.
        UsageError: MPSPROBE_STALL_TIMEOUT is not a positive number.
        Exception: An exception of huggingface_hub or its HTTP library, which `failures.translate` translates.
    """
    from huggingface_hub import constants, utils

    build: Any = utils.build_hf_headers  # type: ignore[attr-defined]
    headers = {**build(), "Accept-Encoding": "identity"}
    if not all(" " <= letter <= "~" for letter in headers.get("authorization", "")):
        raise UnusableTokenError
    if begin or end is not None:
        headers["Range"] = f"bytes={begin}-{'' if end is None else end - 1}"
    session: Any = utils.get_session()  # type: ignore[attr-defined]
    check: Any = utils.hf_raise_for_status  # type: ignore[attr-defined]
    limit = max(constants.HF_HUB_DOWNLOAD_TIMEOUT, limit_s)
    if callable(getattr(session, "stream", None)):  # the attribute of requests is a flag
        with session.stream("GET", url, headers=headers, timeout=limit, follow_redirects=True) as response:
            check(response)
            yield _reply(response, response.iter_bytes())
        return
    response = session.get(url, headers=headers, timeout=limit, stream=True)
    with response:
        check(response)
        yield _reply(response, _of_requests(response))


def _reply(response: Any, chunks: Iterator[bytes]) -> Reply:
    if response.status_code not in (200, 206):
        raise NotTheHubError(f"status {response.status_code}")
    return Reply(response.status_code, response.headers, _watched(chunks))


def _of_requests(response: Any) -> Iterator[bytes]:
    """Yield the body of a `requests` response as it arrives; the response's own iterator waits for whole chunks.

    Raises:
        TimeoutError: Nothing arrived within the time limit.
        BrokenTransferError: The connection ended early.
    """
    raw = response.raw
    if not hasattr(raw, "read1"):
        yield from response.iter_content(1 << 16)
        return
    from urllib3 import exceptions

    try:
        while chunk := raw.read1(CHUNK, decode_content=True):
            yield chunk
    except exceptions.ReadTimeoutError as problem:
        raise TimeoutError("timed out") from problem
    except exceptions.HTTPError as problem:
        raise BrokenTransferError(str(problem)) from problem


def _watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield chunks while they arrive fast enough; the time that the consumer takes does not count.

    Raises:
        StalledTransferError: Less than `LEAST_RATE` bytes per second arrived for `MPSPROBE_STALL_TIMEOUT` seconds.
    """
    limit = seconds_of("MPSPROBE_STALL_TIMEOUT", _STALL_S)
    waited, count = 0.0, 0
    while True:
        begun = time.monotonic()
        chunk = next(chunks, None)
        waited += time.monotonic() - begun
        if chunk is None:
            return
        count += len(chunk)
        if waited >= limit:
            if count < LEAST_RATE * waited:
                raise StalledTransferError(f"{count:,} bytes in {waited:.0f} s")
            waited, count = 0.0, 0
        yield chunk


def read(url: str, begin: int = 0, end: int | None = None, *, most: int, limit_s: float = 0.0) -> bytes:
    """Return the bytes of an address from `begin` to `end` (exclusive), even if the server sends more than this range.

    Args:
        url: The address.
        begin: The position of the first byte.
        end: The position after the last byte; None for the rest.
        most: The greatest number of bytes to return.
        limit_s: The seconds without data after which the request is given up.

    Raises:
        NotTheHubError: The server ignores a `begin` above 0, or sends more than `most` bytes although no end was
            given.
        Exception: The request failed; see `get`.
    """
    wanted = most if end is None else min(end - begin, most)
    with get(url, begin, end, limit_s) as reply:
        if reply.status != 206 and begin:
            raise NotTheHubError(f"status {reply.status} in answer to a range of bytes")
        data = bytearray()
        for chunk in reply.chunks:
            data += chunk
            if len(data) >= wanted + (end is None):
                break
    if end is None and len(data) > wanted:
        raise NotTheHubError(f"more than {most} bytes where a small file was expected")
    return bytes(data[:wanted])
