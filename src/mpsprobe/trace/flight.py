"""The flight recorder: it names the op in flight and the last ops after the process is gone.

The op about to run is written to a memory-mapped ring. A store to a shared mapping is in the page cache at once, so
it survives SIGKILL, an abort inside Metal and the out-of-memory killer (but not a power cut).

The file has a header with the number of the last op, then the ring (a 32-bit word for each op: its use, and whether
it ended), then one line of text for each distinct op use, appended when it first occurs. A word holds no running
number and no time; a reader that watches a hang sees that the number in the header does not change.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from mpsprobe.errors import DataError
from mpsprobe.run.own_file import OwnFile

_HEADER = struct.Struct("<8sIIQQ")  # magic, schema, slots, pid, number of the last op
_HEADER_BYTES = 64
_LAST = 3  # the last op's number is the fourth 64-bit word
_MAGIC = b"mpsprobF"
_FORM = 1
# A word: 1 bit "ended", then the use plus one (0: an empty slot). It is small enough to be one digit of a Python
# int.


#: Maps whose copy of a descriptor may refer to another file by now. They stay alive, because `mmap` closes its copy.
_maps: list[mmap.mmap] = []


@dataclass(frozen=True)
class FlightOp:
    """An op as the flight recorder's file holds it.

    Attributes:
        number: The running number in the process, from 1.
        op: The op, such as `"aten::mm"`; `"?"` when it was never named.
        inputs: Its tensors, such as `"float32[2, 3] float32[3, 4]"`.
        module: The path of the innermost module.
        source: The innermost line of user code as `file:line`.
        ended: Whether it returned or raised. On a device with a queue, such as MPS, an op returns before its kernel
            runs, so any of the last few ops may be to blame.
    """

    number: int
    op: str
    inputs: str
    module: str
    source: str
    ended: bool

    def __str__(self) -> str:
        where = " ".join(part for part in (self.module, self.source) if part)
        return f"{self.op}({self.inputs})" + (f" in {where}" if where else "")


class FlightRecorder:
    """Write the op in flight to a file. Each process needs its own file.

    Attributes:
        path: The path of the file.
        begin: A function `begin(use)` that records the start of a named use and returns its slot.
        end: A function `end(slot, use)` that records that it returned or raised.

    Args:
        path: The path of the file, which is created or emptied.
        slots: The number of ops in the ring, a power of two.

    Raises:
        OSError: The file cannot be written.
        ValueError: `slots` is not a power of two, or less than 2.
    """

    begin: Callable[[int], int]
    end: Callable[[int, int], None]

    def __init__(self, path: Path | str, slots: int = 256) -> None:
        if slots < 2 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two, not {slots}")
        self.path = Path(path)
        size = _HEADER_BYTES + 4 * slots
        self._file = OwnFile(self.path, empty=True, mode=0o600)
        header = _HEADER.pack(_MAGIC, _FORM, slots, os.getpid(), 0)
        if self._file.write(header.ljust(size, b"\0")) < size:  # a store beyond the file's end raises SIGBUS
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._map = mmap.mmap(self._file.number, size)
        view = memoryview(self._map)
        self.begin, self.end = _writers(view[:_HEADER_BYTES].cast("Q"), view[_HEADER_BYTES:].cast("I"), slots)

    def name(self, use: int, op: str, inputs: str, module: str, source: str) -> None:
        """Write the name of a use to the file, which is done once, before the first `begin` of the use.

        A full disk loses only the name.
        """
        line = f"{use}\t{op}\t{inputs}\t{module}\t{source}"
        if line.count("\t") != 4 or "\n" in line:
            fields = (str(use), op, inputs, module, source)
            line = "\t".join(field.replace("\t", " ").replace("\n", " ") for field in fields)
        with contextlib.suppress(OSError):  # a full disk costs only the name, never the target's op
            self._file.write(f"{line}\n".encode(errors="replace"))

    def close(self) -> None:
        """Release the file, which stays readable. No use can be named after that."""
        self._file.close()
        if self._file.is_disturbed:
            _maps.append(self._map)

    def __enter__(self) -> FlightRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _writers(
    header: memoryview, ring: memoryview, slots: int
) -> tuple[Callable[[int], int], Callable[[int, int], None]]:
    """Return `begin` and `end` as closures without arithmetic on large numbers, because they run for every op.

    Two threads may store their numbers in the wrong order; the next op of either corrects that.
    """
    number = itertools.count(1).__next__  # atomic, so each thread gets its own slot
    mask = slots - 1

    def begin(use: int) -> int:
        running = number()
        slot = running & mask
        ring[slot] = use + use + 2
        header[_LAST] = running
        return slot

    def end(slot: int, use: int) -> None:
        ring[slot] = use + use + 3

    return begin, end


def read_flight(path: Path | str, last: int = 8) -> list[FlightOp]:
    """Return the last ops of a process that may be dead, in the order in which they began.

    Args:
        path: The file of a `FlightRecorder`.
        last: The greatest number of ops to return.

    Raises:
        DataError: The file cannot be read, or is not the file of a flight recorder.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
    if len(data) < _HEADER_BYTES or not data.startswith(_MAGIC):
        raise DataError(f"{path}: not the file of a flight recorder.")
    _, form, slots, _pid, newest = _HEADER.unpack_from(data)
    ring_end = _HEADER_BYTES + 4 * slots
    if form != _FORM or len(data) < ring_end:
        raise DataError(f"{path}: a flight recorder's file of another form ({form}), or cut short.")
    names = {}
    for line in data[ring_end:].decode(errors="replace").split("\n"):
        use, *fields = line.split("\t")
        if use.isdigit() and len(fields) == 4:  # a last line that was cut off is left out
            names[int(use)] = fields
    ring = struct.unpack_from(f"<{slots}I", data, _HEADER_BYTES)
    ops = []
    for number in range(max(1, newest - min(last, slots) + 1), newest + 1):
        word = ring[number % slots]
        op, inputs, module, source = names.get((word >> 1) - 1, ["?", "", "", ""])
        ops.append(FlightOp(number, op, inputs, module, source, ended=bool(word & 1)))
    return ops


#: The name of the file beside the journal.
FILE = "flight.bin"
_OPS = 6


def last_ops(path: Path, *, raised: bool = False) -> str:
    """Return lines that name the op in flight, or else the last op, and then list the last six ops in order.

    The text is `""` when there is no file of a flight recorder, or no op in it.

    On a device with a queue, such as MPS, an op returns before its kernel runs, so any of the last few ops
    may be to blame.

    Args:
        path: The path of the file.
        raised: Whether the process lives and an exception (such as a time limit's) passed through the op, which
            then counts as ended.
    """
    if not path.exists():
        return ""
    try:
        ops = read_flight(path, _OPS)
    except DataError:
        return ""
    if not ops:
        return ""
    flying = next((op for op in reversed(ops) if not op.ended), None)
    if flying is not None:
        head = f"Op in flight: {flying}"
    else:
        head = f"{'Stopped in or after' if raised else 'The last op, which had returned'}: {ops[-1]}"
    lines = [f"  {'ended' if op.ended else 'began'} {op.number:>8,} {op}" for op in ops]
    return "\n".join([head, "The last ops:", *lines])
