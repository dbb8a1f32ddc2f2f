"""Routes and recommendation of a prediction, for people."""

from __future__ import annotations

from mpsprobe.prediction.layout import listed
from mpsprobe.run import Outlook


def of_outlook(outlook: Outlook) -> str:
    """The routes, one line each, and the advice; empty without any."""
    parts = []
    if outlook.routes:
        lines = [f"{one.name:<7} {one.viability.value:<13} {one.sentence}" for one in outlook.routes]
        parts.append(listed("Routes", lines))
    advice = outlook.recommendation
    if advice is not None:
        parts.append(
            listed(f"What to do: {advice.sentence}", [f"why: {reason}" for reason in advice.reasons[:1]])
        )
    return "\n\n".join(parts)
