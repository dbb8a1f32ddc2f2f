"""Requests to the hub, streamed, over whichever HTTP library the installed huggingface_hub uses.

huggingface_hub below 1.0 uses requests, later ones httpx (or a package of another name with the same interface). Its
session brings proxies, certificates, tokens and the offline switch along. The client's own `hf_hub_download` is not
used for files because releases from 1.x on begin each file anew after an interruption, and none compares checksums.
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

#: Bytes a read returns at most: an interrupted transfer loses at most these.
CHUNK = 1 << 20
#: A connection that brings less than this for `MPSPROBE_STALL_TIMEOUT` seconds is given up, bytes per second.
LEAST_RATE = 1000
#: Those seconds, where the variable is not set.
_STALL_S = 60.0


class NotTheHubError(Exception):
    """A reply is not what the hub sends."""


class UnusableTokenError(Exception):
    """The token cannot be sent: it holds characters that no token has."""


class StalledTransferError(TimeoutError):
    """A connection is open, and brings next to nothing."""


class BrokenTransferError(ConnectionError):
    """A connection ended before its answer did."""


@dataclass(frozen=True)
class Reply:
    """One answer, whose body has not been read.

    Attributes:
        status: HTTP status, 200 or 206.
        headers: of the last answer of a chain of redirects; names are case-insensitive.
        chunks: the body, as it arrives, at most `CHUNK` bytes at a time.
    """

    status: int
    headers: Any
    chunks: Iterator[bytes]


def seconds_of(variable: str, otherwise: float) -> float:
    """Return a time limit from an environment variable, seconds.

    Raises:
        UsageError: its value is no positive number.
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
    """Return the module of the HTTP library that huggingface_hub uses."""
    from huggingface_hub import errors

    name = errors.HTTPError.__module__.partition(".")[0]  # type: ignore[attr-defined]
    return sys.modules[name]


def network_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of a connection that cannot be made, breaks, or stalls."""
    module = library()
    if hasattr(module, "RequestException"):
        return (module.RequestException, ConnectionError, TimeoutError)
    return (module.HTTPError, module.InvalidURL, ConnectionError, TimeoutError)


@contextmanager
def get(url: str, begin: int = 0, end: int | None = None, limit_s: float = 0.0) -> Iterator[Reply]:
    """Open a GET request for the bytes from `begin` to `end` (exclusive; None: all the rest).

    Args:
        url: the address.
        begin: first byte.
        end: byte behind the last one.
        limit_s: silence after which it is given up, seconds; HF_HUB_DOWNLOAD_TIMEOUT where that is longer.

    Raises:
        Exception: of huggingface_hub or its HTTP library; `failures.translate` knows them.
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
    if callable(getattr(session, "stream", None)):  # that of requests is a flag
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
    """Yield a body of requests as it arrives: its own iterator waits until a whole chunk is there."""
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
    """Yield chunks while they bring enough; the time that their reader takes does not count.

    Raises:
        StalledTransferError: less than `LEAST_RATE` came for `MPSPROBE_STALL_TIMEOUT` seconds.
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
    """Return bytes `begin` to `end` of an address, at most `most` of them, whether or not the server knows ranges.

    Raises:
        NotTheHubError: the answer holds more than `most` bytes although no end was asked for.
        Exception: as `get`.
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
