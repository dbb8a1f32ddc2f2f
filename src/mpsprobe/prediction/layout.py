"""Lists, tables and numbers of a prediction's text."""

from __future__ import annotations

from collections.abc import Sequence

#: Rows of a list; all are in the JSON.
_ROWS = 20


def listed(title: str, lines: Sequence[str]) -> str:
    """A titled list, cut after some rows; empty for no lines."""
    if not lines:
        return ""
    shown = [f"  {line}" for line in lines[:_ROWS]]
    if len(lines) > _ROWS:
        shown.append(f"  and {len(lines) - _ROWS} more: --json has all")
    return "\n".join([title, *shown])


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns, the first to the left."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return "\n".join(
        "  "
        + "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def scaled(value: float) -> str:
    """`"16.1 G"` of 16.1e9."""
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g} {prefix}"
    return f"{value:.0f} "
