"""Compute charts of coloured cells: torch releases by verdict, and Macs of the catalogue by fit.

Each row holds its own SVG with positions in per cent, so that a template needs no arithmetic. Each cell states its
verdict as text, and its colour only repeats it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpsprobe import quantities
from mpsprobe.quantities import enumerate_words
from mpsprobe.report.templating import clean
from mpsprobe.report.wording import FIT, VERDICT, Word
from mpsprobe.run import Fit, MacFit, ReleaseSummary

#: The share of a cell's place that the cell fills, in per cent; the rest separates it from the next one.
_FILLED = 94

#: The number of columns that a telephone shows without scrolling far.
_NARROW = 8

#: Texts of cells in the chart of Macs.
_FIT_SHORT = {Fit.COMFORTABLE: "easily", Fit.TIGHT: "tight", Fit.NO: "no", Fit.UNKNOWN: "?"}


@dataclass(frozen=True)
class MosaicCell:
    """One cell of a chart.

    Attributes:
        key: The CSS class.
        text: The text in the cell.
        title: The meaning of the text, in words.
        left: The position of its left edge in per cent of the chart's width.
        middle: The position of the middle of its text in per cent of the chart's width.
    """

    key: str
    text: str
    title: str
    left: str
    middle: str


@dataclass(frozen=True)
class MosaicRow:
    """A named row of cells; columns for which it has none stay empty."""

    name: str
    cells: tuple[MosaicCell, ...]


@dataclass(frozen=True)
class Mosaic:
    """Coloured cells by row and column, as a chart.

    Attributes:
        title: The title of the chart.
        description: The whole chart in words.
        columns: The heads of the columns, each with the position of its text.
        rows: The rows from the top.
        width: The width of a cell in per cent of the chart's width.
        note: How to read the chart.
        hint: What a narrow window says above a chart that it has to scroll; empty for a chart of few columns.
    """

    title: str
    description: str
    columns: tuple[MosaicCell, ...]
    rows: tuple[MosaicRow, ...]
    width: str
    note: str
    hint: str = ""


def _mosaic(
    title: str,
    description: str,
    heads: Sequence[str],
    rows: Iterable[tuple[str, Mapping[int, tuple[str, str, str]]]],
    note: str,
) -> Mosaic:
    """Return a chart of cells; each row maps the index of a column to the key, text and title of its cell."""
    step = 100 / len(heads)

    def cell(column: int, key: str, text: str, words: str) -> MosaicCell:
        return MosaicCell(
            key, clean(text), clean(words), f"{column * step:.3f}", f"{(column + _FILLED / 200) * step:.3f}"
        )

    return Mosaic(
        title,
        clean(description),
        tuple(cell(column, "", head, "") for column, head in enumerate(heads)),
        tuple(
            MosaicRow(clean(name), tuple(cell(column, *said) for column, said in sorted(cells.items())))
            for name, cells in rows
        ),
        f"{step * _FILLED / 100:.3f}",
        note,
        f"Scroll sideways: {heads[0]} to {heads[-1]} →" if len(heads) > _NARROW else "",
    )


def releases_chart(releases: Sequence[ReleaseSummary]) -> Mosaic | None:
    """Return the chart of op uses by verdict and torch release; None for fewer than two releases."""
    if len(releases) < 2:
        return None
    answers = {column: _answer(release) for column, release in enumerate(releases)}
    rows: list[tuple[str, Mapping[int, tuple[str, str, str]]]] = [("all on the GPU", answers)]
    for verdict, word in VERDICT.items():
        found = {
            column: (word.key, f"{count:,}", f"torch {release.torch}: {count:,} op uses {word.text}")
            for column, release in enumerate(releases)
            if (count := release.op_uses.get(verdict.value, 0))
        }
        if found:
            rows.append((word.text, found))
    summary = enumerate_words([f"{one.torch} {answers[column][1]}" for column, one in enumerate(releases)])
    return _mosaic(
        "Torch releases by verdict",
        f"Whether every op runs on the GPU, by torch release: {summary}.",
        [release.torch for release in releases],
        rows,
        "Numbers are distinct op uses. The first row says whether all of them run on the GPU and nothing is refused.",
    )


def _answer(release: ReleaseSummary) -> tuple[str, str, str]:
    if release.fully_native:
        return "pass", "yes", f"torch {release.torch}: every op runs on the GPU"
    if release.stopped or not release.op_uses:
        return "unknown", "stops", f"torch {release.torch}: {release.stopped or 'nothing was run'}"
    return "fail", "no", f"torch {release.torch}: not every op runs on the GPU, or something is refused"


def macs_chart(macs: Sequence[MacFit]) -> Mosaic | None:
    """Return the chart of whether the target fits, by chip, cores and memory; None for fewer than two memory sizes."""
    sizes = sorted({one.memory_gib for one in macs})
    if len(sizes) < 2:
        return None
    rows: dict[str, dict[int, tuple[str, str, str]]] = defaultdict(dict)
    fits: dict[int, set[Fit]] = defaultdict(set)
    for one in macs:
        words = f"{one.mac}: {FIT[one.fit].text}"
        if one.seconds is not None and one.seconds.expected is not None:
            words += f", a sample takes about {quantities.seconds(one.seconds.expected)}"
        name = f"{one.chip.removeprefix('Apple ')}, {one.gpu_cores} cores"
        rows[name][sizes.index(one.memory_gib)] = (FIT[one.fit].key, _FIT_SHORT[one.fit], words)
        fits[one.memory_gib].add(one.fit)
    summary = "; ".join(f"{size} GB {_fits(fits[size])}" for size in sizes)
    return _mosaic(
        "Macs by chip, GPU cores and memory",
        f"Whether the target fits, by memory of the Mac: {summary}.",
        [f"{size} GB" for size in sizes],
        rows.items(),
        "`easily`: with room to spare. `tight`: it fits, and little else does. No cell: no such Mac.",
    )


def _fits(found: set[Fit]) -> str:
    words: list[Word] = [word for fit, word in FIT.items() if fit in found]
    return " or ".join(word.text for word in words)
