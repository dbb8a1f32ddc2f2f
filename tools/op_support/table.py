"""Compare the release files with an independent table that has one letter for each op and release.

`python -m op_support.table FILE` prints, for each release, how many ops agree, and the others by kind of
difference. The table is JSON: `versions` (full versions, in order) and `cells` (for each op without `aten::`, one
letter a version); `LETTERS` gives the meaning of the letters. Ops of other namespaces are left out, because such a
table has none.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import msgspec

from mpsprobe.knowledge import ops
from mpsprobe.knowledge.ops import Kernel, Support

_BLOCKED = "blocked composite"
LETTERS = {
    "N": Kernel.MPS.value,
    "P": Kernel.PYTHON.value,
    "S": Kernel.CPU_FALLBACK.value,
    "C": Kernel.COMPOSITE_EXPLICIT.value,
    "I": Kernel.COMPOSITE_IMPLICIT.value,
    "B": _BLOCKED,
    "u": _BLOCKED,
    "U": Kernel.NONE.value,
    "X": Kernel.NONE_NO_CPU.value,
    "V": Kernel.NONE_VIEW.value,
    "-": Support.ABSENT.value,
}
_SHOWN = 5


class Table(msgspec.Struct, frozen=True):
    """The independent table: full versions in order, and for each op a text with one letter a version."""

    versions: list[str]
    cells: dict[str, str]


def cell(support: ops.OpSupport) -> str:
    """Return the word with which the table would describe an op; it calls structured ops that work composite ones."""
    if support.kernel is None:
        return Support.ABSENT.value
    if support.support is Support.COMPOSITE and support.via and support.certain:
        return _BLOCKED
    return Kernel.COMPOSITE_EXPLICIT.value if support.kernel is Kernel.STRUCTURED else support.kernel.value


def compare(table: Table, torch: str) -> tuple[int, dict[tuple[str, str], list[str]]]:
    """Return the number of ops that agree in one release, and the others by the pair of the table's and our word."""
    column = [ops.resolve_release(version) for version in table.versions].index(torch)
    release = ops.release(torch)
    names = {f"aten::{op}" for op in table.cells} | {op for op in release.names if op.startswith("aten::")}
    agree = 0
    differ: dict[tuple[str, str], list[str]] = defaultdict(list)
    for op in sorted(names & ops.known_ops()):
        letters = table.cells.get(op.removeprefix("aten::"))
        theirs = LETTERS[letters[column]] if letters else Support.ABSENT.value
        ours = cell(release.lookup(op))
        if theirs == ours:
            agree += 1
        else:
            differ[theirs, ours].append(op)
    return agree, differ


def main(arguments: list[str]) -> None:
    """Print how many ops agree with the table for each release, and the others by kind of difference."""
    parser = argparse.ArgumentParser(prog="op_support.table", description=__doc__)
    parser.add_argument("file", type=Path)
    table = msgspec.json.decode(parser.parse_args(arguments).file.read_bytes(), type=Table)
    for version in table.versions:
        torch = ops.resolve_release(version)
        agree, differ = compare(table, torch)
        print(f"{torch}: {agree} agree, {sum(map(len, differ.values()))} differ")  # noqa: T201
        for (theirs, ours), found in sorted(differ.items()):
            print(f"  {len(found):4} {theirs} -> {ours}: {', '.join(found[:_SHOWN])}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
