"""Compute the chart of benchmarks: a mark for every round, the interquartile range and the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from mpsprobe import quantities
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.templating import clean
from mpsprobe.run import Check, Rounds

#: The margin left of a row's first mark and right of its last one, in per cent.
_MARGIN = 2.0


@dataclass(frozen=True)
class Spread:
    """The rounds of one benchmark, on a scale of its own from the fastest to the slowest.

    Attributes:
        name: The name of what was timed.
        text: The median, the fastest and the slowest round with their units, and the number of rounds.
        marks: The position of each round, in per cent of the drawing's width.
        low: The position of the lower quartile.
        width: The width of the interquartile range.
        median: The position of the median.
    """

    name: str
    text: str
    marks: tuple[str, ...]
    low: str
    width: str
    median: str


@dataclass(frozen=True)
class SpreadChart:
    """The chart of all benchmarks, with a description in words."""

    title: str
    description: str
    rows: tuple[Spread, ...]


def rounds_chart(checks: Sequence[Check]) -> SpreadChart | None:
    """Draw every check that holds the times of its rounds; return None when none does."""
    rows = tuple(
        _spread(check.title, check.data.seconds)
        for check in checks
        if isinstance(check.data, Rounds) and len(check.data.seconds) > 1
    )
    if not rows:
        return None
    told = enumerate_words([f"{row.name}: {row.text}" for row in rows])
    return SpreadChart("Benchmarks: each round, the middle half and the median", f"Benchmarks. {told}.", rows)


def _spread(title: str, seconds: Sequence[float]) -> Spread:
    least, most = min(seconds), max(seconds)
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    scale = (100 - 2 * _MARGIN) / ((most - least) or 1.0)

    def at(value: float) -> float:
        return _MARGIN + (value - least) * scale

    middle = median(seconds)
    text = (
        f"median {quantities.seconds(middle)}, {quantities.seconds(least)} to {quantities.seconds(most)}, "
        f"{plural(len(seconds), 'round')}"
    )
    return Spread(
        clean(title),
        text,
        tuple(f"{at(value):.3f}" for value in seconds),
        f"{at(low):.3f}",
        f"{(high - low) * scale:.3f}",
        f"{at(middle):.3f}",
    )
