"""Prepare a run's outlook for reports: advice, routes, memory, time and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mpsprobe import quantities
from mpsprobe.errors import UsageError
from mpsprobe.mac.catalogue import named
from mpsprobe.report.checkview import Grid, grid
from mpsprobe.report.mosaics import Mosaic, macs_chart
from mpsprobe.report.templating import clean
from mpsprobe.report.wording import EVIDENCE, FIT, VIABILITY, Word, unmeasured
from mpsprobe.run import (
    Component,
    Evidence,
    Fit,
    Forecast,
    MacFit,
    Memory,
    Outlook,
    Range,
    Rate,
    Recommendation,
    Route,
    Table,
    TimePart,
    Timing,
)

#: The name of each route in a report.
_NAMES = {"mps": "MPS", "hybrid": "Hybrid", "mlx": "MLX", "cloud": "Cloud GPU"}
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class TitledGrid:
    """A table with its heading.

    Attributes:
        title: The text of the heading, in one line.
        grid: The cells of the table.
        headed: Whether the title is shown; it is not where the heading above says the same.
    """

    title: str
    grid: Grid
    headed: bool = True


@dataclass(frozen=True)
class FoldView:
    """A part of the outlook that is folded behind one line.

    Attributes:
        anchor: The id of its heading.
        title: Its heading.
        note: A few words beside the heading.
        text: A sentence above its tables.
        tables: Its tables.
        closing: A sentence below its tables.
        list_title: The heading of its list.
        items: The items of its list.
        chart: A chart above its tables.
        printed: Whether a printed page shows it: long tables do not fit on a few pages.
    """

    anchor: str
    title: str
    note: str = ""
    text: str = ""
    tables: tuple[TitledGrid, ...] = ()
    closing: str = ""
    list_title: str = ""
    items: tuple[str, ...] = ()
    chart: Mosaic | None = None
    printed: bool = False


@dataclass(frozen=True)
class AdviceView:
    """The recommendation as a template prints it; `route` is empty when the evidence supports none."""

    route: str
    sentence: str
    evidence: Word
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    commands: str


@dataclass(frozen=True)
class RouteView:
    """One route as a template prints it.

    `chosen` marks the recommended one. `card` holds the tables of its card: that of MPS has none, because the page
    lists its blockers under "What breaks".
    """

    name: str
    chosen: bool
    viability: Word
    sentence: str
    evidence: Word
    reasons: tuple[str, ...]
    tables: tuple[TitledGrid, ...]
    card: tuple[TitledGrid, ...] = ()


@dataclass(frozen=True)
class MemoryView:
    """The memory forecast for the target Mac as a template prints it."""

    fit: Word
    reason: str
    tables: tuple[TitledGrid, ...]
    remedies: tuple[str, ...]


@dataclass(frozen=True)
class TimeView:
    """The forecast time of a sample on the Mac and elsewhere; `shares` is the native share, empty when unknown."""

    hardware: str
    basis: str
    tables: tuple[TitledGrid, ...]
    shares: str


@dataclass(frozen=True)
class OutlookView:
    """The outlook without its recommendation, which is shown at the top; missing parts are None or empty."""

    routes: tuple[RouteView, ...]
    memory: MemoryView | None
    time: TimeView | None
    compared: tuple[TitledGrid, ...]
    releases: tuple[TitledGrid, ...]
    folds: tuple[FoldView, ...]
    tables: tuple[TitledGrid, ...]
    limits: tuple[str, ...]
    viabilities: tuple[Word, ...]


@dataclass(frozen=True)
class RateView:
    """An expected rate, such as tokens per second; `span` is its likely range, empty where unknown."""

    name: str
    value: str
    span: str
    evidence: Word
    hardware: str


def rate_views(forecast: Forecast, *, packed: bool = False) -> tuple[RateView, ...]:
    """Return the rates of the forecast for the Mac that have an expected value.

    Args:
        forecast: The forecast.
        packed: Whether the weights stay packed, so that the rates are those of plain weights and say so.
    """
    time = forecast.time
    return (
        tuple(
            _rate_view(
                rate, Evidence.PREDICTED, time.hardware, " with plain weights" if packed else ""
            )  # a forecast, whatever recorded its op uses
            for rate in time.rates
            if rate.expected is not None
        )
        if time
        else ()
    )


def _rate_view(rate: Rate, evidence: Evidence, hardware: str, of: str) -> RateView:
    assert rate.expected is not None
    timed = rate.unit in ("s", "s/it")
    shown = quantities.seconds if timed else _rate
    unit = "" if timed else f" {rate.unit}"
    span = ""
    if rate.low is not None and rate.high is not None:
        span = f"{shown(rate.low)} to {shown(rate.high)}{unit}"
    name = f"{rate.name}, one iteration" if rate.unit == "s/it" else rate.name
    return RateView(
        clean(name) + of, f"{shown(rate.expected)}{unit}", span, EVIDENCE[evidence], mac_title(hardware)
    )


def mac_title(hardware: str) -> str:
    """Return a Mac's name for readers, such as `Apple M1 Max, 32 GPU cores, 64 GB`; other machines keep theirs."""
    try:
        mac = named(hardware)
    except UsageError:
        return clean(hardware)
    return f"{mac.chip}, {mac.gpu_cores} GPU cores, {mac.memory_bytes >> 30} GB"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def outlook_view(outlook: Outlook | None) -> OutlookView | None:
    """Return the outlook as templates print it; None when it has neither a forecast nor routes."""
    if outlook is None or (
        outlook.forecast is None and not outlook.routes and outlook.recommendation is None
    ):
        return None
    advice, forecast = outlook.recommendation, outlook.forecast
    memory = _memory(forecast.memory) if forecast and forecast.memory else None
    time = _time(forecast, forecast.time) if forecast and forecast.time else None
    limits = tuple(map(clean, forecast.limits)) if forecast else ()
    compared = _titled(("Routes compared", advice.matrix)) if advice else ()
    releases = _titled(("Torch releases", advice.releases), headed=False) if advice else ()
    plan = (
        _titled(("Checklist", advice.checklist), ("Timeline to a first result", advice.timeline))
        if advice
        else ()
    )
    return OutlookView(
        routes=tuple(_route(route, advice) for route in outlook.routes),
        memory=memory,
        time=time,
        compared=compared,
        releases=releases,
        folds=(*_folds(memory, time, plan, limits), *_macs(outlook.macs)),
        tables=(*compared, *releases, *plan),
        limits=limits,
        viabilities=tuple(VIABILITY.values()),
    )


def _folds(
    memory: MemoryView | None, time: TimeView | None, plan: Sequence[TitledGrid], limits: tuple[str, ...]
) -> Iterator[FoldView]:
    """Yield the sections on memory, time, plan and limits, which the page folds behind one line each."""
    if memory is not None:
        yield FoldView(
            "memory",
            "Memory",
            note=memory.fit.text,
            text=memory.reason,
            tables=memory.tables,
            list_title="What would make it fit" if memory.remedies else "",
            items=memory.remedies,
            printed=True,
        )
    if time is not None:
        yield FoldView(
            "time",
            f"Time on {time.hardware}",
            text=f"Rates by {time.basis}",
            tables=time.tables,
            closing=time.shares,
        )
    for table in plan:
        anchor = re.sub(r"[^a-z]+", "-", table.title.lower())
        yield FoldView(
            anchor, table.title, tables=(replace(table, headed=False),), printed=anchor == "checklist"
        )
    if limits:
        yield FoldView("forecast-limits", "Limits of the forecast", items=limits, printed=True)


def _macs(macs: Sequence[MacFit]) -> Iterator[FoldView]:
    """Yield one section on which Macs of the catalogue the target fits; nothing where that was not requested."""
    if not macs:
        return
    rows: list[list[str | int | float | bool | None]] = [
        [
            one.mac,
            FIT[one.fit].text,
            _size(one.needed_bytes),
            _size(one.working_set_bytes),
            _range(one.seconds)[1] if one.seconds is not None else "",
            one.quantised,
        ]
        for one in macs
    ]
    columns = [
        "Mac",
        "fit",
        "needed",
        "Metal recommends at most",
        "a sample, expected",
        "fits easily in MLX with",
    ]
    easily = sum(one.fit is Fit.COMFORTABLE for one in macs)
    tight = sum(one.fit is Fit.TIGHT for one in macs)
    more = f"; {tight} more are tight: near what Metal recommends at most, or past it" if tight else ""
    yield FoldView(
        "macs",
        "Macs of the catalogue",
        note=f"{easily} of {len(macs)} fit easily{more}",
        tables=(TitledGrid("Macs by fit", grid(Table(columns, rows)), headed=False),),
        chart=macs_chart(macs),
    )


def advice_view(outlook: Outlook | None) -> AdviceView | None:
    """Return the recommendation as templates print it; None when there is none."""
    advice = outlook.recommendation if outlook is not None else None
    if advice is None:
        return None
    return AdviceView(
        route=_NAMES.get(advice.route, clean(advice.route)),
        sentence=clean(advice.sentence),
        evidence=EVIDENCE[advice.evidence],
        reasons=tuple(map(clean, advice.reasons)),
        would_change=tuple(map(clean, advice.would_change)),
        commands=clean("\n".join(advice.commands)),
    )


def stops_view(outlook: Outlook | None) -> TitledGrid | None:
    """Return the MPS route's table of blockers with their fixes; None where it has none."""
    routes = outlook.routes if outlook is not None else []
    tables = next((one.tables for one in routes if one.name == "mps"), {})
    return next((TitledGrid(clean(title), grid(table)) for title, table in tables.items()), None)


def _route(route: Route, advice: Recommendation | None) -> RouteView:
    shown = (
        list(route.tables.items())[1:] if route.name == "mps" else route.tables.items()
    )  # "What breaks" has it
    tables = [TitledGrid(clean(title), grid(table)) for title, table in shown]
    if route.components:
        tables.insert(0, TitledGrid("Parts of the target", grid(_components(route.components))))
    return RouteView(
        name=_NAMES.get(route.name, clean(route.name)),
        chosen=advice is not None and advice.route == route.name,
        viability=VIABILITY[route.viability],
        sentence=clean(route.sentence),
        evidence=EVIDENCE[route.evidence],
        reasons=tuple(map(clean, route.reasons)),
        tables=tuple(tables),
        card=() if route.name == "mps" else tuple(tables),
    )


def _components(components: Sequence[Component]) -> Table:
    return Table(
        ["part", "state", "to do", "days", "why"],
        [[one.name, one.state, one.does, _days(one.days), one.reason] for one in components],
    )


def _days(days: tuple[float, float]) -> str:
    low, high = (f"{value:g}" for value in days)
    return low if low == high else f"{low} to {high}"


def _memory(memory: Memory) -> MemoryView:
    rows: list[list[str | int | float | bool | None]] = [
        [part.name, _size(part.bytes), part.basis, part.evidence.value] for part in memory.parts
    ]
    for name, count in (
        ("Needed by the process on the GPU", memory.needed_bytes),
        ("Metal's recommended working set", memory.working_set_bytes),
        ("Where the allocator raises", memory.limit_bytes),
        ("Available: physical memory", memory.available_bytes),
        ("Margin", _margin(memory)),
    ):
        if count is not None:
            rows.append([name, _size(count), "", ""])
    return MemoryView(
        fit=FIT[memory.fit],
        reason=clean(memory.reason),
        tables=(
            TitledGrid("Memory", grid(Table(["memory", "size", "basis", "evidence"], rows)), headed=False),
        ),
        remedies=tuple(clean(one.sentence) for one in memory.remedies),
    )


def _margin(memory: Memory) -> int | None:
    """Return the bytes of physical memory that no part takes; None unless all parts are known."""
    taken = [part.bytes for part in memory.parts]
    if memory.available_bytes is None or memory.needed_bytes is None or not taken or None in taken:
        return None
    return memory.available_bytes - sum(part or 0 for part in taken)


def _time(forecast: Forecast, time: Timing) -> TimeView:
    rows: list[list[str | int | float | bool | None]] = [_stage(part) for part in time.parts]
    if time.per_sample is not None:
        rows.append(["in all, once loaded", None, *_range(time.per_sample), "", "", "", None])
    if forecast.epoch is not None:
        title = f"an epoch of {forecast.epoch.samples:,} samples"
        rows.append([title, forecast.epoch.steps, *_range(forecast.epoch.seconds), "", "", "", None])
    columns = [
        "stage",
        "times",
        "at least",
        "expected",
        "likely range",
        "bound by",
        "FLOPs",
        "bytes",
        "launches",
    ]
    shares = ""
    if time.native_time_share is not None:
        shares = f"{time.native_time_share:.2%} of the op time is spent in native kernels"
        if time.native_call_share is not None:
            shares += f", which are {time.native_call_share:.2%} of the calls"
        shares += "."
    shares = " ".join(filter(None, [shares, unmeasured(time)]))
    tables = [TitledGrid("By stage", grid(Table(columns, rows))), *_elsewhere(forecast)]
    return TimeView(mac_title(time.hardware), clean(time.basis), tuple(tables), shares)


#: What bounds loading: its floor is no disk's, because macOS keeps files in memory.
_FROM_CACHE = "disk; at least: a file that macOS holds in memory"


def _stage(part: TimePart) -> list[str | int | float | bool | None]:
    return [
        part.name,
        part.repeats,
        *_range(part.seconds),
        _FROM_CACHE if part.name == "load" else part.bound or "mixed",
        quantities.scaled_flops(part.flops) if part.flops is not None else "",
        _size(part.bytes) if part.bytes is not None else "",
        part.launches,
    ]


def _range(span: Range) -> list[str]:
    likely = ""
    if span.low is not None and span.high is not None:
        likely = f"{quantities.rough(span.low)} to {quantities.rough(span.high)}"
    return [
        quantities.seconds(span.floor),
        quantities.rough(span.expected) if span.expected is not None else _UNKNOWN,
        likely,
    ]


def _elsewhere(forecast: Forecast) -> list[TitledGrid]:
    rows: list[list[str | int | float | bool | None]] = [
        [timing.hardware, *_range(timing.per_sample), timing.basis]
        for timing in forecast.elsewhere
        if timing.per_sample is not None
    ]
    columns = ["machine", "at least", "expected", "likely range", "basis"]
    trained = forecast.time is not None and any(part.name == "step" for part in forecast.time.parts)
    title = "A step elsewhere" if trained else "A sample elsewhere"
    return [TitledGrid(title, grid(Table(columns, rows)))] if rows else []


def _titled(*named: tuple[str, Table | None], headed: bool = True) -> tuple[TitledGrid, ...]:
    return tuple(TitledGrid(title, grid(table), headed) for title, table in named if table is not None)


def _size(count: int | None) -> str:
    return _UNKNOWN if count is None else quantities.decimal_size(count)
