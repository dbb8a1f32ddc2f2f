"""Describe the last ops of a process that died or was stopped, from its flight recorder's file."""

from __future__ import annotations

from pathlib import Path

from mpsprobe.errors import DataError
from mpsprobe.trace.flight import read_flight

#: The name of the file beside the journal.
FILE = "flight.bin"
_OPS = 6


def last_ops(path: Path, *, raised: bool = False) -> str:
    """Describe the last ops in order, one a line, the one in flight first; `""` when nothing was recorded.

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
