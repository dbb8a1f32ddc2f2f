"""Draw a badge: the worst status together with its evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mpsprobe.report.escaping import clean
from mpsprobe.report.headline import Headline, verdict
from mpsprobe.report.templating import fill
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
_LABEL = "mpsprobe"

#: Widths in px of characters of Verdana at 11 px, on average; `textLength` makes the text fit exactly.
_CHARACTER = 6.6
_PADDING = 14


@dataclass(frozen=True)
class Badge:
    """Geometry and texts of the badge template; lengths in px."""

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


def shields(run: Run) -> str:
    """Return the badge as an endpoint document of shields.io (https://shields.io/badges/endpoint-badge)."""
    headline = verdict(run)
    document = {
        "schemaVersion": 1,
        "label": _LABEL,
        "message": _message(headline),
        "color": _COLOURS.get(headline.status, _NEUTRAL),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _message(headline: Headline) -> str:
    return f"{headline.word} · {clean(headline.standing)}"


def badge(run: Run) -> str:
    """Return the badge as SVG."""
    headline = verdict(run)
    label, message = _LABEL, _message(headline)
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
