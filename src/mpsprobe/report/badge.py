"""A badge: the worst status and the evidence, never one without the other."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.report.headline import verdict
from mpsprobe.report.templating import fill
from mpsprobe.report.text import clean
from mpsprobe.run import Run, Status

#: Backgrounds on which white text has a contrast of at least 4.5 : 1.
_COLOURS: dict[Status, str] = {
    Status.PASS: "#1a7f4b",
    Status.WARN: "#8a5a00",
    Status.FAIL: "#b3261e",
    Status.CRASHED: "#b3261e",
    Status.TIMEOUT: "#b3261e",
    Status.ERROR: "#7a3e9d",
}
_NEUTRAL = "#57606a"

#: Widths in px of characters of Verdana at 11 px, on average; `textLength` makes the text fit exactly.
_CHARACTER = 6.6
_PADDING = 14


@dataclass(frozen=True)
class Badge:
    """What the badge's template prints; lengths in px."""

    label: str
    message: str
    colour: str
    width: int
    label_width: int
    message_width: int
    label_middle: float
    message_middle: float
    label_length: int
    message_length: int


def badge(run: Run) -> str:
    """The badge as SVG."""
    headline = verdict(run)
    label, message = "mpsprobe", f"{headline.word} · {clean(headline.standing)}"
    label_length, message_length = round(len(label) * _CHARACTER), round(len(message) * _CHARACTER)
    left, right = label_length + _PADDING, message_length + _PADDING
    return fill(
        "badge.svg.j2",
        badge=Badge(
            label=label,
            message=message,
            colour=_COLOURS.get(headline.status, _NEUTRAL),
            width=left + right,
            label_width=left,
            message_width=right,
            label_middle=left / 2,
            message_middle=left + right / 2,
            label_length=label_length,
            message_length=message_length,
        ),
    )
