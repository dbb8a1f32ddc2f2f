"""The flight recorder: names the op in flight after the process is gone.

The op about to run is written to a memory-mapped ring. A store to a shared mapping is in the page cache at
once, so it outlives SIGKILL, an abort inside Metal and the out-of-memory killer (not a power cut).

The file: a header, then the ring (two 64-bit words an op: when it began; which op, its running number, and
whether it ended), then one line of text for each distinct op use, appended when it is first seen.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mpsprobe.errors import DataError

_HEADER = struct.Struct("<8sIIQ")  # magic, form, slots, pid
_HEADER_BYTES = 64
_MAGIC = b"mpsprobF"
_FORM = 1
# A slot's second word, from its low end: 1 bit "ended", 20 bits use, 43 bits running number from 1.
_USE_BITS = 20
_MOST_USES = (1 << _USE_BITS) - 1  # the last one stands for every use that is not named


@dataclass(frozen=True)
class FlightOp:
    """An op as the ring knew it.

    Attributes:
        number: running number in the process, from 1.
        op: e.g. `"aten::mm"`; `"?"` when its name was never written.
        inputs: its tensors, e.g. `"float32[2, 3] float32[3, 4]"`.
        module: path of the innermost module.
        source: `file:line` of user code.
        ended: it returned (or raised). On a device with a queue, such as MPS, an op returns before its kernel
            runs: then the culprit is one of the last few, not always the last.
        began: when, seconds since the epoch.
    """

    number: int
    op: str
    inputs: str
    module: str
    source: str
    ended: bool
    began: float

    def __str__(self) -> str:
        where = " ".join(part for part in (self.module, self.source) if part)
        return f"{self.op}({self.inputs})" + (f" in {where}" if where else "")


class FlightRecorder:
    """Writes the op in flight to `path`. One process a file.

    Attributes:
        path: the file.
        entry: `entry(use)` notes that a named use begins and returns a ticket for `ended`.
        ended: `ended(ticket)` notes that it returned.

    Args:
        path: created, or emptied when it exists.
        slots: ops the ring holds, a power of two.
    """

    entry: Callable[[int], int]
    ended: Callable[[int], None]

    def __init__(self, path: Path | str, slots: int = 256) -> None:
        if slots < 2 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two, not {slots}")
        self.path = Path(path)
        size = _HEADER_BYTES + 16 * slots
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        header = _HEADER.pack(_MAGIC, _FORM, slots, os.getpid())
        os.write(self._file, header.ljust(size, b"\0"))
        self._map = mmap.mmap(self._file, size)
        self._words = memoryview(self._map).cast("Q")
        self.entry, self.ended = _writers(self._words[_HEADER_BYTES // 8 :], slots)

    def name(self, use: int, op: str, inputs: str, module: str, source: str) -> None:
        """Say once what a use is, before its first `entry`. Costs one write to the file."""
        if use < _MOST_USES:
            line = "\t".join((str(use), op, inputs, module, source)).replace("\n", " ")
            os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Release the file; it stays readable. Nothing may be written afterwards."""
        if self._file < 0:
            return

        def closed(_: int) -> int:
            raise ValueError(f"{self.path}: the flight recorder is closed")

        self.entry = closed
        self.ended = closed  # type: ignore[assignment]
        os.close(self._file)
        self._file = -1
        self._map.flush()

    def __enter__(self) -> FlightRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _writers(ring: memoryview, slots: int) -> tuple[Callable[[int], int], Callable[[int], None]]:
    """The two writers as closures: local names are the difference between 0.5 and 0.3 us here."""
    number = itertools.count(1).__next__  # atomic, so threads get a slot each
    mask = slots - 1
    now = time.time_ns

    def entry(use: int) -> int:
        running = number()
        at = (running & mask) << 1
        ring[at] = now()
        ring[at + 1] = running << 21 | (use if use < _MOST_USES else _MOST_USES) << 1
        return at + 1

    def ended(at: int) -> None:
        ring[at] |= 1

    return entry, ended


def read_flight(path: Path | str, last: int = 8) -> list[FlightOp]:
    """The last ops of a process that may be dead, in the order in which they began.

    Args:
        path: the file of a `FlightRecorder`.
        last: how many at most.

    Raises:
        DataError: the file cannot be read or is not one of a flight recorder.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
    if len(data) < _HEADER_BYTES or not data.startswith(_MAGIC):
        raise DataError(f"{path}: not the file of a flight recorder.")
    _, form, slots, _pid = _HEADER.unpack_from(data)
    ring_end = _HEADER_BYTES + 16 * slots
    if form != _FORM or len(data) < ring_end:
        raise DataError(f"{path}: a flight recorder's file of another form ({form}), or cut short.")
    names = {}
    for line in data[ring_end:].decode(errors="replace").splitlines():
        use, *fields = line.split("\t")
        if use.isdigit() and len(fields) == 4:  # a last line that was cut off is left out
            names[int(use)] = fields
    ops = []
    for began, word in struct.iter_unpack("<QQ", data[_HEADER_BYTES:ring_end]):
        if word:
            fields = names.get(word >> 1 & _MOST_USES, ["?", "", "", ""])
            ops.append(FlightOp(word >> 21, *fields, ended=bool(word & 1), began=began / 1e9))
    ops.sort(key=lambda op: op.number)
    return ops[-last:]
