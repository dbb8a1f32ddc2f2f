"""Memory and time of a prediction, for people."""

from __future__ import annotations

from mpsprobe.prediction.layout import listed, scaled, table
from mpsprobe.run import Forecast, Memory, Outlook, Range, Rate, Timing

_UNKNOWN = "unknown"


def of_outlook(outlook: Outlook) -> str:
    """The tables of a forecast; empty without one."""
    forecast = outlook.forecast
    advice = _advice(outlook)
    if forecast is None:
        return advice
    parts = [_rates(forecast)]
    parts += [_memory(forecast.memory)] if forecast.memory is not None else []
    if forecast.time is not None:
        parts.append(_time(forecast.time))
    parts.append(_elsewhere(forecast))
    parts.append(advice)
    return "\n\n".join(part for part in parts if part)


def _rates(forecast: Forecast) -> str:
    """Return the workload and what the Mac makes of it, in the units that people compare."""
    if not forecast.workload:
        return ""
    lines = [f"Workload: {forecast.workload}."]
    time = forecast.time
    if time is not None and any(one.expected is not None for one in time.rates):
        lines.append(f"On {time.hardware}: {'; '.join(of_rate(one) for one in time.rates)}.")
    return "\n".join(lines)


def of_rate(rate: Rate) -> str:
    """Return `"decode 31 tokens/s (24 - 38)"`."""
    if rate.expected is None:
        return f"{rate.name} unknown"
    span = f" ({rate.low:.3g} - {rate.high:.3g})" if rate.low is not None and rate.high is not None else ""
    return f"{rate.name} {rate.expected:.3g} {rate.unit}{span}"


def _advice(outlook: Outlook) -> str:
    """What the owner should do, and what each route comes to; empty where no route was judged."""
    made = outlook.recommendation
    if made is None:
        return ""
    routes = [f"{one.name:<7}{one.viability.value}: {one.sentence}" for one in outlook.routes]
    parts = [f"What to do: {made.sentence}", listed("Because", made.reasons), listed("Routes", routes)]
    parts.append(listed("What would change it", made.would_change))
    return "\n\n".join(part for part in parts if part)


def limits(outlook: Outlook) -> list[str]:
    """What the forecast cannot say, where there is one of a Mac."""
    forecast = outlook.forecast
    return list(forecast.limits) if forecast is not None and forecast.memory is not None else []


def _memory(memory: Memory) -> str:
    rows = [[part.name, _size(part.bytes), part.basis] for part in memory.parts]
    whole, needed = memory.available_bytes, memory.needed_bytes
    rows.append(["needed by the GPU", _size(needed), "all but the OS and other"])
    rows.append(
        ["available", _size(whole), f"of it {_size(memory.working_set_bytes)} by Metal's recommendation"]
    )
    if memory.working_set_bytes is not None and needed is not None:
        rows.append(["margin", _size(memory.working_set_bytes - needed), "to that recommendation"])
    lines = [f"  {name:<18} {size:>10}  {basis}" for name, size, basis in rows]
    head = f"Memory: {memory.fit.value}. {memory.reason}"
    return "\n".join([head, *lines, *(f"  would help: {text}" for text in memory.remedies)])


def _time(time: Timing) -> str:
    rows = []
    for part in time.parts:
        each = part.seconds.expected if part.seconds.expected is not None else None
        rows.append(
            [
                part.name,
                part.repeats,
                _seconds(part.seconds.floor),
                _expected(part.seconds),
                _seconds(each / part.repeats) if each is not None and part.repeats > 1 else "",
                part.bound,
                f"{scaled(part.flops)}FLOP" if part.flops is not None else "",
                f"{scaled(part.bytes)}B" if part.bytes is not None else "",
                f"{part.launches:,}" if part.launches is not None else "",
            ]
        )
    if time.per_sample is not None and len(rows) > 1:
        rows.append(
            [
                "a sample, once loaded",
                "",
                _seconds(time.per_sample.floor),
                _expected(time.per_sample),
                *[""] * 5,
            ]
        )
    columns = [
        "stage",
        "times",
        "at least",
        "expected (range)",
        "each",
        "bound by",
        "work",
        "moved",
        "kernels",
    ]
    head = f"Time on {time.hardware}, by {time.basis}"
    if time.native_time_share is not None and time.native_call_share is not None:
        head += f"; native {time.native_time_share:.1%} of op time, {time.native_call_share:.1%} of calls"
    return f"{head}\n{table(columns, rows)}"


def _elsewhere(forecast: Forecast) -> str:
    rows = [
        [one.hardware, _seconds(one.per_sample.floor), _expected(one.per_sample), one.basis]
        for one in forecast.elsewhere
        if one.per_sample is not None
    ]
    lines = table(["a sample on", "at least", "expected (range)", "by"], rows).splitlines() if rows else []
    return listed("Elsewhere", [line.removeprefix("  ") for line in lines])


def _expected(seconds: Range) -> str:
    if seconds.expected is None:
        return _UNKNOWN
    if seconds.low is None or seconds.high is None:
        return _seconds(seconds.expected)
    return f"{_seconds(seconds.expected)} ({_seconds(seconds.low)} - {_seconds(seconds.high)})"


def _seconds(value: float) -> str:
    """`"6.5 s"`, `"16 ms"`, `"25 min"`."""
    if value >= 600:
        return f"{value / 60:,.0f} min"
    if value >= 100:
        return f"{value:,.0f} s"
    for least, factor, unit in ((1.0, 1.0, "s"), (1e-3, 1e3, "ms")):
        if value >= least:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def _size(count: int | None) -> str:
    if count is None:
        return _UNKNOWN
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if abs(count) >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} B"
