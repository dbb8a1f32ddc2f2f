"""Values as people read them. Sizes name their unit exactly: 1 GiB is 2**30 bytes, 1 GB is 10**9."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpsprobe.run import Measurement


@dataclass(frozen=True)
class Value:
    """A value as text.

    Attributes:
        text: for people, with its unit.
        exact: the value as it was recorded, when `text` rounded or scaled it; else empty.
    """

    text: str
    exact: str = ""


def value(measurement: Measurement) -> Value:
    """The value of a measurement with its unit."""
    number, unit = measurement.value, measurement.unit
    if number is None:
        return Value(f"not available: {unit}" if unit else "not available")
    if isinstance(number, bool):
        return Value("yes" if number else "no")
    if isinstance(number, str):
        return Value(f"{number} {unit}".rstrip())
    if not math.isfinite(number):
        return Value(f"{number} {unit}".rstrip())
    if unit == "s":
        return Value(seconds(number), _exact(number, "s", seconds(number)))
    if unit in ("bytes", "B"):
        return Value(size(number), _exact(number, "bytes", size(number)))
    if unit in ("bytes/s", "B/s"):
        return Value(f"{size(number)}/s", _exact(number, "bytes/s", f"{size(number)}/s"))
    if unit.startswith("FLOP"):
        text = scaled_flops(number, unit)
        return Value(text, _exact(number, unit, text))
    text = f"{plain(number)} {unit}".rstrip()
    return Value(text, _exact(number, unit, text))


def size(count: float) -> str:
    """Bytes in binary units: `20.64 GiB`, `512 bytes`."""
    return _scaled(count, "bytes", 1024, ("", "KiB", "MiB", "GiB", "TiB", "PiB"))


def both_sizes(count: float) -> str:
    """Bytes in decimal and binary units, for sizes that are quoted either way: `22.16 GB (20.64 GiB)`."""
    if abs(count) < 1000:
        return size(count)
    return f"{_scaled(count, 'bytes', 1000, ('', 'kB', 'MB', 'GB', 'TB', 'PB'))} ({size(count)})"


def scaled_flops(number: float, unit: str = "FLOP") -> str:
    """Operations, or operations a second: `63.70 TFLOP`."""
    return _scaled(number, unit, 1000, ("", "k", "M", "G", "T", "P", "E"))


def seconds(duration: float) -> str:
    """A duration: `840 µs`, `13.2 ms`, `2.41 s`, `3 min 5 s`, `1 h 12 min`."""
    span = abs(duration)
    if not math.isfinite(span):
        return f"{duration} s"
    sign = "-" if duration < 0 else ""
    if span == 0:
        return "0 s"
    if span < 0.9995e-3:
        return f"{sign}{_digits(span * 1e6)} µs"
    if span < 0.9995:
        return f"{sign}{_digits(span * 1e3)} ms"
    if span < 59.95:
        return f"{sign}{_digits(span)} s"
    whole = round(span)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60} s"
    minutes = round(span / 60)
    return f"{sign}{minutes // 60:,} h {minutes % 60} min"


def plain(number: float) -> str:
    """A number without its unit: integers in full, others with four significant digits."""
    if not math.isfinite(number):
        return str(number)
    if isinstance(number, int) or (number == int(number) and abs(number) < 1e15):
        return f"{int(number):,}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def parameters(count: int) -> str:
    """A number of parameters: `11.08 billion (11,078,526,194)`."""
    for scale, name in ((10**9, "billion"), (10**6, "million")):
        if count >= scale:
            return f"{count / scale:.2f} {name} ({count:,})"
    return f"{count:,}"


def _scaled(number: float, unit: str, base: int, prefixes: tuple[str, ...]) -> str:
    """Divide by `base` until at most four digits stand before the point.

    `prefixes[0]` stands for no prefix; for sizes the others are whole units (`GiB`).
    """
    step, scaled = 0, float(number)
    while abs(scaled) >= base and step < len(prefixes) - 1:
        scaled, step = scaled / base, step + 1
    if step == 0:
        return f"{plain(number)} {unit}"
    return f"{scaled:,.2f} {prefixes[step]}{'' if unit == 'bytes' else unit}"


def _digits(number: float) -> str:
    """Three significant digits without an exponent, for numbers in [1, 1000)."""
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _exact(number: float, unit: str, text: str) -> str:
    """The number as it was recorded, unless `text` says exactly that."""
    full = f"{number:,} {unit}".rstrip() if isinstance(number, int) else f"{number!r} {unit}".rstrip()
    return "" if full == text else full
