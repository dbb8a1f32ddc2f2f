"""Prepare the known faults that a prediction's op uses meet, may meet, or would meet in a larger workload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpsprobe.quantities import plural
from mpsprobe.report.templating import clean
from mpsprobe.run import Hazard, Run


@dataclass(frozen=True)
class HazardView:
    """One known fault: the symptom, the severity and certainty, the place where it is met, and the fix."""

    title: str
    advisory: str
    grade: str
    why: str
    place: str
    fix: str


@dataclass(frozen=True)
class HazardList:
    """The known faults of a prediction.

    Attributes:
        met: The faults that this workload meets, or that the longest workload of the model meets.
        possible: The faults for which the workload, macOS or the chip decides.
        title: The line that `possible` is folded behind; empty when there are none.
    """

    met: tuple[HazardView, ...]
    possible: tuple[HazardView, ...]
    title: str


def warning(run: Run) -> str:
    """Return a first sentence for a known fault that gives wrong results or kills the process; empty for none."""
    met = [
        one
        for one in (run.predicted.hazards if run.predicted is not None else ())
        if one.is_met and one.severity == "critical"
    ]
    if not met:
        return ""
    first = met[0]
    more = f" (and {plural(len(met) - 1, 'more critical fault')})" if len(met) > 1 else ""
    when = f", {first.why}" if first.why else ""
    torch = run.mac.torch if run.mac is not None else "this release"
    return f"Known fault on torch {torch}: {first.title}{when}{more}. Fix: {first.fix}"


def hazard_list(hazards: Sequence[Hazard]) -> HazardList | None:
    """Return the known faults that belong in a report; None when there are none."""
    met = tuple(_view(one) for one in hazards if one.is_met)
    possible = tuple(_view(one) for one in hazards if not one.is_met and one.listed)
    if not met and not possible:
        return None
    title = f"{plural(len(possible), 'more known fault')}, where the workload, macOS or chip decides"
    return HazardList(met, possible, title if possible else "")


def _view(one: Hazard) -> HazardView:
    place = (
        f"{plural(one.calls, 'call')} of `{one.op}`{f' at {one.source}' if one.source else ''}"
        if one.op
        else ""
    )
    return HazardView(
        title=clean(one.title),
        advisory=clean(one.advisory),
        grade=f"{one.severity}, {one.certainty}",
        why=clean(one.why),
        place=clean(place),
        fix=clean(one.fix),
    )
