"""Format measurements with their units."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mpsprobe.quantities import both_sizes, decimal_size, parameters, plain, scaled_flops, seconds, size
from mpsprobe.run import Measurement

__all__ = [
    "Value",
    "both_sizes",
    "decimal_size",
    "parameters",
    "plain",
    "scaled_flops",
    "seconds",
    "size",
    "value",
]


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
    """Format the value of a measurement with its unit."""
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


def _exact(number: float, unit: str, text: str) -> str:
    """Return the number as it was recorded; empty when `text` says exactly that."""
    full = f"{number:,} {unit}".rstrip() if isinstance(number, int) else f"{number!r} {unit}".rstrip()
    return "" if full == text else full
