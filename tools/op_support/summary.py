"""Write the tables of `docs/op-support.md` from the data: `python -m op_support.summary`.

Each table is between `<!-- NAME -->` and `<!-- end -->`; the text around them is written by hand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mpsprobe import toml
from mpsprobe.knowledge import ops
from mpsprobe.knowledge.ops import Support
from op_support import unimplemented

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "op-support.md"


def releases_table() -> str:
    """Return the table of each release's wheel, macOS, number of ops by kind of support, dtypes and autocast ops."""
    columns = ["torch", "wheel", "macOS", "native", "composite", "of which blocked", "fallback", "missing"]
    columns += ["no CPU kernel", "view", "dtypes", "autocast"]
    rows = []
    for torch in ops.releases():
        release = ops.release(torch)
        found = release.ops()
        count = Counter(support.support for support in found)
        blocked = sum(bool(s.via) and s.certain for s in found)
        rows.append(
            [
                torch,
                release.wheel.version,
                release.minimum_macos,
                count[Support.NATIVE],
                count[Support.COMPOSITE],
                blocked,
                count[Support.FALLBACK],
                count[Support.MISSING],
                count[Support.MISSING_NO_CPU],
                count[Support.MISSING_VIEW],
                len(release.dtypes),
                sum(map(len, release.autocast.values())),
            ]
        )
    return _table(columns, rows)


def unimplemented_table() -> str:
    """Return the table of the agreement with PyTorch's own list, for each release that ships one."""
    rows = []
    for torch in ops.releases():
        if ops.release(torch).unimplemented:
            agree, differ = unimplemented.compare(torch)
            sides = Counter(item.side for item in differ)
            left = len(list(unimplemented.unexplained(differ)))
            rows.append(
                [torch, agree, sides[unimplemented.Side.PYTORCH], sides[unimplemented.Side.OURS], left]
            )
    return _table(
        ["torch", "agree", "only PyTorch expects a failure", "only our data does", "unexplained"], rows
    )


def explanations_list() -> str:
    """Return a list of every explanation with its tests, side and releases."""
    sides = {unimplemented.Side.PYTORCH: "only PyTorch", unimplemented.Side.OURS: "only our data"}
    explanations = toml.load(unimplemented.EXPLANATIONS, unimplemented.Explanations).explanation
    lines = []
    for item in explanations:
        span = (
            f"{item.since or ops.releases()[0]} to {item.until or ops.releases()[-1]}"
            if item.since or item.until
            else ""
        )
        names = ", ".join(f"`{name}`" for name in item.names)
        lines.append(f"- {names} ({sides[item.side]}{f'; {span}' if span else ''}): {item.why}")
    return "\n".join(lines)


def fill(text: str) -> str:
    """Return the document with new tables between its markers."""
    made = {
        "releases": releases_table,
        "unimplemented": unimplemented_table,
        "explanations": explanations_list,
    }
    for name, make in made.items():
        parts = re.split(rf"(<!-- {name} -->\n|<!-- end -->)", text)
        start = parts.index(f"<!-- {name} -->\n")
        parts[start + 1] = f"{make()}\n"
        text = "".join(parts)
    return text


def _table(columns: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(fill(DOCUMENT.read_text("utf-8")), "utf-8")
