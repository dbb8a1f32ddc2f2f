"""Compute the geometry of a run's charts, so that a template can draw them as inline SVG with a text alternative.

Positions and lengths are per cent of the drawing's width, as strings, so that templates hold no arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from mpsprobe import quantities
from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.templating import clean
from mpsprobe.report.wording import VERDICT
from mpsprobe.run import Check, Fit, Memory, OpUse, OpVerdict, Rounds, Timing
from mpsprobe.trace.formulas.registry import family

#: Stages before the first sample. They take minutes where a sample takes seconds, so they have no bar.
_BEFORE = ("download", "load")

#: A part narrower than this share of the bar has no room for its name.
_LABEL_FROM = 9.0

#: Colours of segments, and px between the labels of two limits.
_TONES, _LINE = 7, 16

#: The shortest bar that can still be seen, in per cent.
_LEAST = 0.4


@dataclass(frozen=True)
class Segment:
    """One part of a stacked bar; positions and lengths are per cent of the drawing's width.

    Attributes:
        name: The name of the part.
        text: Its size with its unit.
        tone: The index of its colour, from 0.
        left: The position of its left end.
        width: Its length.
        middle: The position of the middle of its label.
        label: Its label; empty where there is no room for one.
    """

    name: str
    text: str
    tone: int
    left: str
    width: str
    middle: str
    label: str


@dataclass(frozen=True)
class LimitMark:
    """A limit that a bar is compared with.

    Attributes:
        name: The name of the limit.
        text: Its size with its unit.
        at: Its position in per cent of the drawing's width.
        anchor: The part of its label that is placed there (SVG's `text-anchor`: `start`, `middle` or `end`).
        foot: The end of its line, in px from the top.
        base: The baseline of its label, in px from the top.
    """

    name: str
    text: str
    at: str
    anchor: str
    foot: int
    base: int


@dataclass(frozen=True)
class StackedBar:
    """Memory on the target Mac as one bar, with its limits.

    Attributes:
        description: The whole chart in one sentence.
        segments: The parts from the left. Where there is room, the system's part ends at the end of physical
            memory.
        markers: Limits from the left.
        height: The height of the drawing in px.
        track: The length of physical memory in per cent of the drawing's width.
    """

    description: str
    segments: tuple[Segment, ...]
    markers: tuple[LimitMark, ...]
    height: int
    track: str


@dataclass(frozen=True)
class BarRow:
    """One row of a bar chart; positions and lengths are per cent of the drawing's width.

    Attributes:
        name: The name of the row.
        text: Its value with its unit and, where it has one, its likely range.
        width: The length of the bar.
        low: The position of the lower end of the likely range; empty without one.
        spread: The length of the likely range; empty without one.
        key: The CSS class of the bar.
    """

    name: str
    text: str
    width: str
    low: str = ""
    spread: str = ""
    key: str = ""


@dataclass(frozen=True)
class BarChart:
    """A title, bars on one scale, and a description of the chart in one sentence."""

    title: str
    description: str
    rows: tuple[BarRow, ...]


def memory_bar(memory: Memory) -> StackedBar | None:
    """Return the chart of memory; None unless every part, the Mac's memory and the fit are known."""
    known = all(part.bytes is not None for part in memory.parts)
    parts = [(part.name, part.bytes, part.system) for part in memory.parts if part.bytes]
    available = memory.available_bytes
    if not parts or not known or available is None or memory.fit is Fit.UNKNOWN:
        return None
    limits = [
        (name, count)
        for name, count in (
            ("recommended working set", memory.working_set_bytes),
            (f"physical memory ({available / 2**30:.3g} GiB)", available),
            ("allocator limit", memory.limit_bytes),
        )
        if count
    ]
    process = sum(count for _, count, system in parts if not system)
    total = sum(count for _, count, _ in parts)
    scale = 100 / max(total, *(count for _, count in limits))
    segments, left = [], 0.0
    for tone, (name, count, system) in enumerate(parts):
        width = count * scale
        if system:
            left = max(left, available * scale - width)
        segments.append(
            Segment(
                name=clean(name),
                text=quantities.decimal_size(count),
                tone=tone % _TONES,
                left=f"{left:.3f}",
                width=f"{width:.3f}",
                middle=f"{left + width / 2:.3f}",
                label=clean(name) if width >= max(_LABEL_FROM, 1.3 * len(name)) else "",
            )
        )
        left += width
    markers = [
        LimitMark(
            name,
            quantities.decimal_size(count),
            f"{count * scale:.3f}",
            _anchor(count * scale),
            foot=42 + _LINE * row,
            base=54 + _LINE * row,
        )
        for row, (name, count) in enumerate(sorted(limits, key=lambda limit: limit[1]))
    ]
    summary = enumerate_words([f"{name} {quantities.decimal_size(count)}" for name, count, _ in parts])
    against = enumerate_words([f"{name} {quantities.decimal_size(count)}" for name, count in limits])
    return StackedBar(
        f"{quantities.decimal_size(process)} needed by the process: {clean(summary)}. Limits: {against}.",
        tuple(segments),
        tuple(markers),
        height=46 + _LINE * len(markers),
        track=f"{available * scale:.3f}",
    )


def _anchor(at: float) -> str:
    return "start" if at < 12 else "end" if at > 80 else "middle"


def time_chart(time: Timing, one: str = "sample") -> BarChart | None:
    """Return the chart of the stages of one sample, or of one step; None when no stage has an expected time.

    Download and load are left out: they happen once, and would dwarf the stages of a sample.
    """
    parts = [part for part in time.parts if part.name not in _BEFORE and part.seconds.expected is not None]
    if not parts:
        return None
    most = max(part.seconds.high or part.seconds.expected or 0.0 for part in parts)
    if most <= 0:
        return None
    scale = 100 / most
    rows = []
    for part in parts:
        span, expected = part.seconds, part.seconds.expected or 0.0
        text = quantities.rough(expected)
        low = spread = ""
        if span.low is not None and span.high is not None:
            text += f" ({quantities.rough(span.low)} to {quantities.rough(span.high)})"
            low, spread = f"{span.low * scale:.3f}", f"{(span.high - span.low) * scale:.3f}"
        name = part.name if part.repeats == 1 else f"{part.name}, {part.repeats:,} times"
        rows.append(BarRow(clean(name), text, _bar(expected, most), low, spread, part.bound or "mixed"))
    summary = enumerate_words([f"{row.name} {row.text}" for row in rows])
    return BarChart(
        f"Time of one {one} by stage", f"Expected time of one {one} by stage: {summary}.", tuple(rows)
    )


def kinds_chart(time: Timing | None, uses: Sequence[OpUse]) -> BarChart | None:
    """Return the chart of the expected time of each family of ops, or of its least memory traffic without times.

    None when fewer than two families have a known size.
    """
    if time is not None and len(time.share_by_kind) > 1:
        shares = sorted(time.share_by_kind.items(), key=lambda item: -item[1])
        return _families("Expected op time by kind", [(name, share, _share(share)) for name, share in shares])
    moved: dict[str, int] = defaultdict(int)
    for use in uses:
        if use.bytes:
            moved[family(use.op)] += use.bytes
    if len(moved) < 2:
        return None
    rows, total = sorted(moved.items(), key=lambda item: -item[1]), sum(moved.values())
    return _families(
        "Bytes read and written by kind of op, at least",
        [(name, n, f"{quantities.decimal_size(n)} ({_share(n / total)})") for name, n in rows],
    )


def _share(part: float) -> str:
    return f"{part:.1%}" if part >= 0.0005 or not part else "< 0.1%"


def _families(title: str, found: Sequence[tuple[str, float, str]]) -> BarChart:
    """Return bars of families, the largest first, with a description in one sentence."""
    most = max(value for _, value, _ in found)
    rows = tuple(BarRow(clean(name), text, _bar(value, most)) for name, value, text in found)
    return BarChart(title, f"{title}: {enumerate_words([f'{row.name} {row.text}' for row in rows])}.", rows)


def _bar(value: float, most: float) -> str:
    return f"{max(100 * value / most, _LEAST):.3f}"


def verdict_chart(uses: Iterable[OpUse]) -> BarChart | None:
    """Return the chart of calls by verdict; None when all calls have one verdict, or there are none."""
    calls: dict[OpVerdict, int] = defaultdict(int)
    for use in uses:
        calls[use.verdict] += use.count
    if len(calls) < 2:
        return None
    total = sum(calls.values())
    rows = tuple(
        BarRow(word.text, f"{calls[verdict]:,}", _bar(calls[verdict], total), key=word.key)
        for verdict, word in VERDICT.items()
        if calls[verdict]
    )
    summary = enumerate_words([f"{row.name} {row.text}" for row in rows])
    return BarChart("Op calls by verdict", f"Op calls by verdict: {summary}.", rows)


#: The margin left of a row's first mark and right of its last one, in per cent.
_MARGIN = 2.0


@dataclass(frozen=True)
class Spread:
    """The times of one benchmark's rounds, on its own scale from the fastest to the slowest.

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
    """The chart of all benchmarks: a title, a description in words and a row for each."""

    title: str
    description: str
    rows: tuple[Spread, ...]


def rounds_chart(checks: Sequence[Check]) -> SpreadChart | None:
    """Return the chart of all checks that hold the times of several rounds; None when none does."""
    rows = tuple(
        _spread(check.title, check.data.seconds)
        for check in checks
        if isinstance(check.data, Rounds) and len(check.data.seconds) > 1
    )
    if not rows:
        return None
    summary = enumerate_words([f"{row.name}: {row.text}" for row in rows])
    return SpreadChart(
        "Benchmarks: each round, the middle half and the median", f"Benchmarks. {summary}.", rows
    )


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
