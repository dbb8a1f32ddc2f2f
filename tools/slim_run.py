"""Make the run.json of an example small: op uses that differ in the number of a layer alone become one.

    PYTHONPATH=src python tools/slim_run.py reports/examples/alpamayo-r1-10b/run.json

`module` then reads `model.layers.*.mlp`; calls, FLOPs and bytes are summed, and everything else stays. A report drawn
from the file again tells the same, with one line where there was one for each layer.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec

from mpsprobe.run import OpUse, Run


def slim(uses: list[OpUse]) -> list[OpUse]:
    """One use for all that are equal but for numbers in `module`, in the order of the first of each."""
    merged: dict[bytes, OpUse] = {}
    for use in uses:
        module = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", use.module)
        key = msgspec.json.encode(
            msgspec.structs.replace(use, module=module, count=0, flops=None, bytes=None)
        )
        first = merged.get(key)
        if first is None:
            merged[key] = msgspec.structs.replace(use, module=module)
        else:
            first.count += use.count
            first.flops = _sum(first.flops, use.flops)
            first.bytes = _sum(first.bytes, use.bytes)
    return list(merged.values())


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def main(path: Path) -> None:
    """Read a run, and write it with fewer op uses to the same place."""
    run = Run.load(path)
    before = len(run.op_uses)
    run.op_uses = slim(run.op_uses)
    run.save(path)
    sys.stdout.write(f"{path}: {before:,} op uses are {len(run.op_uses):,}, {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
