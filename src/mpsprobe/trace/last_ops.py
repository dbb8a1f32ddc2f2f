"""What a flight recorder's file says of a process that died or was stopped."""

from __future__ import annotations

from pathlib import Path

from mpsprobe.errors import DataError
from mpsprobe.trace.flight import read_flight

#: Name of the file beside the journal.
FILE = "flight.bin"
_OPS = 6


def last_ops(path: Path, *, raised: bool = False) -> str:
    """Describe the last ops in order, one a line, the one in flight first; `""` when no flight was recorded.

    On a device with a queue, such as MPS, an op returns before its kernel runs: then the culprit is one of the
    last few.

    Args:
        path: the file.
        raised: the process lives, and an exception (a time limit's) went through the op: it counts as ended then.
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
