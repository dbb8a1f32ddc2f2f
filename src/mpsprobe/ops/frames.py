"""Exchange messages with a worker: a length, then MessagePack (JSON has no NaN and no infinity)."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any, TypeVar

import msgspec

_Message = TypeVar("_Message")
_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class ClosedError(Exception):
    """The other side has closed the pipe."""


def send(fd: int, message: Any) -> None:
    """Write one message.

    Raises:
        ClosedError: The other side has closed the pipe.
    """
    body = _encoder.encode(message)
    data = memoryview(_LENGTH.pack(len(body)) + body)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError as gone:
        raise ClosedError from gone


def receive(fd: int, kind: type[_Message] | Any) -> Any:
    """Read one message, waiting as long as necessary.

    Raises:
        ClosedError: The other side has closed the pipe.
    """
    (length,) = _LENGTH.unpack(_exactly(fd, _LENGTH.size))
    return msgspec.msgpack.decode(_exactly(fd, length), type=kind)


def readable(fd: int, seconds: float) -> bool:
    """Return whether `fd` becomes readable within `seconds`."""
    return bool(select.select([fd], [], [], max(0.0, seconds))[0])


def _exactly(fd: int, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(fd, count - len(parts))
        if not part:
            raise ClosedError
        parts += part
    return parts


def deadline(seconds: float) -> float:
    """Return the time that many seconds from now, for use with `left`."""
    return time.monotonic() + seconds


def left(until: float) -> float:
    """Return the seconds until a deadline, never negative."""
    return max(0.0, until - time.monotonic())
