"""Requests to the hub, streamed, over whichever HTTP library the installed huggingface_hub uses.

huggingface_hub below 1.0 uses requests, later ones httpx (or a package of another name with the same interface). Its
session brings proxies, certificates, tokens and the offline switch along. The client's own `hf_hub_download` is not
used for files because releases from 1.x on begin each file anew after an interruption, and none compares checksums.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Bytes a read returns: an interrupted transfer loses at most these.
CHUNK = 1 << 20


class NotTheHubError(Exception):
    """A reply is not what the hub sends."""


@dataclass(frozen=True)
class Reply:
    """One answer, whose body has not been read.

    Attributes:
        status: HTTP status below 400.
        headers: of the last answer of a chain of redirects; names are case-insensitive.
        chunks: the body, `CHUNK` bytes at a time.
    """

    status: int
    headers: Any
    chunks: Iterator[bytes]


def library() -> Any:
    """Return the module of the HTTP library that huggingface_hub uses."""
    from huggingface_hub import errors

    name = errors.HTTPError.__module__.partition(".")[0]  # type: ignore[attr-defined]
    return sys.modules[name]


def network_errors() -> tuple[type[BaseException], ...]:
    """Return the exceptions of a connection that cannot be made, breaks, or stalls."""
    module = library()
    base = module.RequestException if hasattr(module, "RequestException") else module.HTTPError
    return (base, ConnectionError, TimeoutError)


@contextmanager
def get(url: str, begin: int = 0, end: int | None = None) -> Iterator[Reply]:
    """Open a GET request for the bytes from `begin` to `end` (exclusive; None: all the rest).

    Raises:
        Exception: of huggingface_hub or its HTTP library; `failures.translate` knows them.
    """
    from huggingface_hub import constants, utils

    build: Any = utils.build_hf_headers  # type: ignore[attr-defined]
    headers = {**build(), "Accept-Encoding": "identity"}
    if begin or end is not None:
        headers["Range"] = f"bytes={begin}-{'' if end is None else end - 1}"
    session: Any = utils.get_session()  # type: ignore[attr-defined]
    check: Any = utils.hf_raise_for_status  # type: ignore[attr-defined]
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(getattr(session, "stream", None)):  # that of requests is a flag
        with session.stream("GET", url, headers=headers, timeout=limit, follow_redirects=True) as response:
            check(response)
            yield Reply(response.status_code, response.headers, response.iter_bytes(CHUNK))
        return
    response = session.get(url, headers=headers, timeout=limit, stream=True)
    with response:
        check(response)
        yield Reply(response.status_code, response.headers, response.iter_content(CHUNK))


def read(url: str, begin: int = 0, end: int | None = None, *, most: int) -> bytes:
    """Return bytes `begin` to `end` of an address, at most `most` of them, whether or not the server knows ranges.

    Raises:
        NotTheHubError: the answer holds more than `most` bytes although no end was asked for.
        Exception: as `get`.
    """
    wanted = most if end is None else min(end - begin, most)
    with get(url, begin, end) as reply:
        if reply.status != 206 and begin:
            raise NotTheHubError(f"status {reply.status} in answer to a range of bytes")
        data = bytearray()
        for chunk in reply.chunks:
            data += chunk
            if len(data) >= wanted:
                break
    if end is None and len(data) > wanted:
        raise NotTheHubError(f"more than {most} bytes where a small file was expected")
    return bytes(data[:wanted])
