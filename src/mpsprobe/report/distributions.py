"""Compute the chart of benchmarks: a mark for every round, the middle half and the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from mpsprobe import quantities
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.templating import clean
from mpsprobe.run import Check, Rounds

#: Room left and right of a row's first and last mark, in per cent.
_MARGIN = 2.0


@dataclass(frozen=True)
class Spread:
    """The rounds of one benchmark, on a scale of its own from the fastest to the slowest.

    Attributes:
        name: What was timed.
        text: Median, fastest and slowest with their units, and the number of rounds.
        marks: Where each round stands, in per cent of the drawing's width.
        low: Where the middle half begins.
        width: How wide the middle half is.
        median: Where the median stands.
    """

    name: str
    text: str
    marks: tuple[str, ...]
    low: str
    width: str
    median: str


@dataclass(frozen=True)
class SpreadChart:
    """Benchmarks, and the same in words."""

    title: str
    description: str
    rows: tuple[Spread, ...]


def rounds_chart(checks: Sequence[Check]) -> SpreadChart | None:
    """Draw every check that holds the times of its rounds; None when none does."""
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
