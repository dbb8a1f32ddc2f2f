"""Format quantities and lists for readers. Sizes name their unit exactly: 1 GiB is 2**30 bytes, 1 GB is 10**9."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence


def size(count: float) -> str:
    """Format bytes in binary units: `20.64 GiB`, `512 bytes`."""
    return _scaled(count, "bytes", 1024, ("", "KiB", "MiB", "GiB", "TiB", "PiB"))


def both_sizes(count: float) -> str:
    """Format bytes in decimal and binary units: `22.16 GB (20.64 GiB)`, or `512 bytes` below 1000."""
    if abs(count) < 1000:
        return size(count)
    return f"{decimal_size(count)} ({size(count)})"


def decimal_size(count: float) -> str:
    """Format bytes in decimal units: `22.16 GB`."""
    return _scaled(count, "bytes", 1000, ("", "kB", "MB", "GB", "TB", "PB"))


def scaled_flops(number: float, unit: str = "FLOP") -> str:
    """Format a number of operations with a decimal prefix: `63.70 TFLOP`, or `TFLOP/s` with that unit."""
    return _scaled(number, unit, 1000, ("", "k", "M", "G", "T", "P", "E"))


def seconds(duration: float) -> str:
    """Format a duration in seconds: `840 µs`, `13.2 ms`, `2.41 s`, `3 min 5 s`, `10 min`, `1 h 12 min`.

    It has three significant digits below a minute, whole seconds below an hour, and whole minutes above.
    """
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
        return f"{sign}{whole // 60} min{f' {whole % 60} s' if whole % 60 else ''}"
    minutes = round(span / 60)
    return f"{sign}{minutes // 60:,} h{f' {minutes % 60} min' if minutes % 60 else ''}"


def rough(duration: float) -> str:
    """Format a duration that is known only roughly: `25 min`, `3 min 30 s`, `2 h 40 min`, and as `seconds` below 1 min.

    The last digits of an estimate whose range spans a factor of several say nothing.
    """
    span = abs(duration)
    if not math.isfinite(span) or span < 59.95:
        return seconds(duration)
    step = next(step for limit, step in _STEPS if span < limit)
    return seconds(math.copysign(round(span / step) * step, duration))


#: The step to which `rough` rounds, by the duration in seconds below which it applies.
_STEPS = ((295, 10), (570, 30), (3570, 60), (35700, 600), (math.inf, 3600))


def cut(text: str, length: int, ending: str = " ...") -> str:
    """Return a text of at most `length` characters and an ending, cut between words where that loses little."""
    if len(text) <= length:
        return text
    short = text[:length]
    at = short.rfind(" ") if not text[length].isspace() else -1
    return f"{short[:at] if at > length * 2 // 3 else short}{ending}".replace(" " + ending, ending)


def plain(number: float) -> str:
    """Format a number without a unit: `1,204`, `12,346`, `0.1235`.

    Whole numbers are written in full (floats below 1e15), other numbers from 10,000 to 1e15 are rounded to whole
    ones, all others have four significant digits. Infinity and NaN are written as Python writes them.
    """
    if not math.isfinite(number):
        return str(number)
    if isinstance(number, int) or (number == int(number) and abs(number) < 1e15):
        return f"{int(number):,}"
    return f"{number:,.0f}" if 1e4 <= abs(number) < 1e15 else f"{number:.4g}"


def parameters(count: int) -> str:
    """Format a number of parameters: `11.08 billion (11,078,526,194)`, or in full only below a million."""
    for scale, name in ((10**9, "billion"), (10**6, "million")):
        if count >= scale:
            return f"{count / scale:.2f} {name} ({count:,})"
    return f"{count:,}"


def billions(count: int) -> str:
    """Format a number of parameters as model cards do: `8.03 B`, `1.6 M`."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _scaled(number: float, unit: str, base: int, prefixes: tuple[str, ...]) -> str:
    """Divide a number by `base` until it is smaller than `base` or the prefixes are used up, and append the unit.

    `prefixes[0]` means no prefix. If the unit is `"bytes"`, the others are whole units, such as `GiB`.
    """
    step, scaled = 0, float(number)
    while abs(scaled) >= base and step < len(prefixes) - 1:
        scaled, step = scaled / base, step + 1
    if step == 0:
        return f"{plain(number)} {unit}"
    return f"{scaled:,.2f} {prefixes[step]}{'' if unit == 'bytes' else unit}"


def _digits(number: float) -> str:
    """Format a number in [1, 1000) with three significant digits and no exponent."""
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def plural(count: int, noun: str) -> str:
    """Format a count with a noun whose plural ends in `s`: `1 check`, `1,204 checks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def times_in_words(count: int) -> str:
    """Format how often something happens: `once`, `1,204 times`."""
    return "once" if count == 1 else f"{count:,} times"


def enumerate_words(words: Sequence[str]) -> str:
    """Join words as in a sentence: `a`, `a and b`, `a, b and c`; an empty string for no words."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


#: Characters that steer a terminal or hide text: C0 and C1 except tab and line feed, bidirectional controls, lone
# surrogates.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text with each control character as its escape: `\x1b` for ESC, `\u202e` for a bidirectional one.

    Tabs and line feeds stay; lone surrogates are escaped too. Everything that people read passes through this
    function, because the texts of a target, a repository or a document may hold anything.
    """
    return _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def printable_json(text: str) -> str:
    r"""Return a JSON document with its raw control characters as `\uXXXX`; tabs, line feeds and `\r` stay."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}" if found[0] != "\r" else "\r", text)
