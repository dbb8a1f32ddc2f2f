"""Read the lines of PYTORCH_MPS_LOG_PROFILE_INFO: which ops PyTorch itself says that the CPU ran for the GPU.

The formats are those of ATen/mps/MPSProfiler.mm; its format strings are the same in the macOS wheels of torch 2.1.2,
2.5.1, 2.6.0, 2.8.0, 2.11.0, 2.13.0 and 2.15.0. If the variable has the bit 4, there is a line for each run of an op on
the CPU; with the bit 64 (or 8) there is a table when the process ends. Ops are named without their overload.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mpsprobe.run import LoggedFallback

VARIABLE = "PYTORCH_MPS_LOG_PROFILE_INFO"
#: `CPU Fallback::aten::_linalg_eigh:MPS:Float[3, 3] (id=1, run=2, CopyOverhead=36 bytes, cpu=0.120 ms)`
_LINE = re.compile(
    r"CPU Fallback::(?P<op>\w+::\w+)(?::.*?)? \(id=\d+, run=\d+, CopyOverhead=(?P<size>[\d.]+ \w+)"
    r"(?:, cpu=(?P<ms>[\d.]+) ms)?\)"
)
_TABLE = re.compile(r"-+ CPU Fallback Profiling: Total \d+ Runs, [\d.]+ ms, [\d.]+ \w+ Copies -+")
#: `  1       2         0.120           0.240         72 bytes      aten::_linalg_eigh`
_ROW = re.compile(
    r" *\d+ +(?P<runs>\d+) +[\d.]+ +(?P<ms>[\d.]+) +(?P<size>[\d.]+ (?:bytes|[KMG]B)) +(?P<op>\w+::\w+) *$"
)
#: Lines between the title of the table and its first row: the names of the columns, and a rule.
_HEAD = 2
_UNITS = {"bytes": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
#: Bytes of a log that are read: with all bits, a long run writes gigabytes.
_MOST = 256 << 20


@dataclass
class _Sum:
    runs: int = 0
    copied: float = 0.0
    milliseconds: float = 0.0

    def add(self, runs: int, size: str, milliseconds: str | None) -> None:
        number, unit = size.split()
        self.runs += runs
        self.copied += float(number) * _UNITS.get(unit, 1)
        self.milliseconds += float(milliseconds or 0)


@dataclass
class _Log:
    lines: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    rows: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))


def read(path: Path) -> list[LoggedFallback]:
    """Return the fallbacks in the first 256 MiB of a process's stderr; none where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return fallbacks(line.decode(errors="replace") for line in _bounded(file))
    except OSError:
        return []


def fallbacks(lines: Iterable[str]) -> list[LoggedFallback]:
    """Return the fallbacks in the lines of a log, those with the longest time first, then those with the most runs.

    The lines of runs and the table describe the same runs, so of a log that has both, the one with more runs of an op
    counts.
    """
    log, head, in_table = _Log(), 0, False
    for line in lines:
        if (found := _LINE.search(line)) is not None:
            log.lines[found["op"]].add(1, found["size"], found["ms"])
        if _TABLE.search(line) is not None:
            head, in_table = _HEAD, True
        elif head:
            head -= 1
        elif in_table:
            row = _ROW.match(line.rstrip("\r\n"))
            in_table = row is not None
            if row is not None:
                log.rows[row["op"]].add(int(row["runs"]), row["size"], row["ms"])
    found_ops = []
    for op in {**log.lines, **log.rows}:
        fallback = max(log.lines[op], log.rows[op], key=lambda one: (one.runs, one.milliseconds))
        found_ops.append(
            LoggedFallback(
                op, fallback.runs, round(fallback.copied), fallback.milliseconds / 1e3 or None
            )  # unknown: 0
        )
    return sorted(found_ops, key=lambda one: (-(one.seconds or 0), -one.runs, one.op))


def _bounded(file: Iterable[bytes]) -> Iterator[bytes]:
    left = _MOST
    for line in file:
        left -= len(line)
        if left < 0:
            return
        yield line
