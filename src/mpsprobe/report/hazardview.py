"""Prepare two parts of a prediction's report: known faults that its op uses meet, and where the host waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpsprobe.knowledge import advisories
from mpsprobe.quantities import plural, seconds
from mpsprobe.report.checkview import grid
from mpsprobe.report.outlookview import FoldView, TitledGrid, mac_title
from mpsprobe.report.templating import clean
from mpsprobe.run import Hazard, Predicted, Run, Table, Timing

#: What makes the host wait, by the kind of wait.
_WAITS = {
    "item": "reads a number: .item(), if tensor, int(tensor)",
    "copy": "copies between CPU and GPU without non_blocking",
    "data-dependent": "makes a tensor whose size depends on values",
    "fallback": "runs an op on the CPU",
    "synchronize": "torch.mps.synchronize()",
}
#: The number of lines of code that are listed.
_WAIT_LINES = 60


@dataclass(frozen=True)
class HazardView:
    """One known fault: the symptom, its grade with the word for its colour, the place where it is met, and the fix.

    `link` is the address of its source; empty where this version does not know the advisory.
    """

    title: str
    advisory: str
    grade: str
    key: str
    why: str
    place: str
    fix: str
    link: str = ""


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
    """Return a sentence on the first critical fault that is met (`Hazard.is_met`), and its fix; empty for none."""
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
    """Return the known faults that are met or listed as possible; None when there are none."""
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
        key="fail" if one.severity in ("critical", "high") else "warn",
        why=clean(one.why),
        place=clean(place),
        fix=clean(one.fix),
        link=next((known.links[0] for known in advisories.load_all() if known.id == one.advisory), ""),
    )


def waits_folds(run: Run) -> Iterator[FoldView]:
    """Yield one section on the lines where the host waits for the GPU and its cost; nothing where it never waits."""
    made = run.predicted
    rows = waiting_lines(made) if made is not None else []
    if made is None or not rows:
        return
    forecast = run.outlook.forecast if run.outlook is not None else None
    time = forecast.time if forecast is not None else None
    shown: list[list[str | int | float | bool | None]] = [
        [count, clean(source), clean(what)] for source, what, count in rows[:_WAIT_LINES]
    ]
    columns = ["waits", "at", "because it"]
    left = plural(len(rows) - _WAIT_LINES, "more line") if len(rows) > _WAIT_LINES else ""
    yield FoldView(
        "host-waits",
        "Where the host waits for the GPU",
        note=plural(sum(count for _, _, count in rows), "wait"),
        text=clean(waits_text(made, time)),
        tables=(TitledGrid("Lines that wait", grid(Table(columns, shown))),),
        closing=f"{left} in run.json." if left else "",
    )


def waiting_lines(made: Predicted) -> list[tuple[str, str, int]]:
    """Return a line of code, the reason and the number of waits for each place that waits, most waits first."""
    counts: dict[tuple[str, str], int] = {}
    for one in made.host_waits:
        if one.waits:
            key = (one.source or "?", _WAITS.get(one.kind, one.kind))
            counts[key] = counts.get(key, 0) + one.count
    return [(*key, count) for key, count in sorted(counts.items(), key=lambda item: -item[1])]


def waits_cost(time: Timing | None) -> str:
    """Return the time that the waits of a sample take, as in `62.2 ms of 227 ms a sample`; empty where unknown."""
    if time is None or time.wait_seconds is None:
        return ""
    expected = time.per_sample.expected if time.per_sample is not None else None
    return f"{seconds(time.wait_seconds)}{f' of {seconds(expected)}' if expected else ''} a sample"


def waits_text(made: Predicted, time: Timing | None) -> str:
    """Return sentences on what a wait does, what was run while the waits were counted, and what they cost."""
    cost = waits_cost(time)
    costs = (
        f"They take {cost} on {mac_title(time.hardware)} (predicted)."
        if time and cost
        else "Their cost is not known."
    )
    return (
        f"Counted in: {made.doing}. Each wait empties the queue of kernels: the host dispatches nothing until the GPU "
        f"is done. {costs}"
    )
