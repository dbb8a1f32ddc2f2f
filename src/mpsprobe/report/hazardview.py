"""Prepare two parts of a prediction's report: known faults that its op uses meet, and where the host waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpsprobe.knowledge import advisories
from mpsprobe.quantities import enumerate_words, plural, seconds
from mpsprobe.report.checkview import grid
from mpsprobe.report.outlookview import FoldView, TitledGrid, mac_title
from mpsprobe.report.templating import clean
from mpsprobe.run import Hazard, Predicted, Run, SourceFinding, Table, Timing

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


def hazard_list(hazards: Sequence[Hazard], source: Sequence[SourceFinding] = ()) -> HazardList | None:
    """Return the known faults and the findings in the target's source that a report shows; None when there are none.

    Args:
        hazards: The known faults that the op uses meet or may meet.
        source: The findings of the scan; those in functions that ran stand among the faults that are met.
    """
    met = (*(_view(one) for one in hazards if one.is_met), *(_found(one) for one in source if one.ran))
    faults = tuple(_view(one) for one in hazards if not one.is_met and one.listed)
    unseen = [one for one in source if not one.ran]
    if not met and not faults and not unseen:
        return None
    parts = []
    if faults:
        parts.append(f"{plural(len(faults), 'more known fault')}, where the workload, macOS or chip decides")
    if unseen:
        count = plural(sum(len(one.places) for one in unseen), "place")
        parts.append(f"{count} in its source to check for a Mac, {_UNSEEN}")
    return HazardList(met, (*faults, *map(_found, unseen)), "; ".join(parts))


#: Of places in the source where the recorded inference called no op.
_UNSEEN = "not on the path that was run"


def source_note(run: Run) -> str:
    """Return a sentence on how many places in the target's source mean trouble on a Mac; empty for none."""
    found = run.predicted.source if run.predicted is not None else []
    ran, unseen = (sum(len(one.places) for one in found if one.ran is each) for each in (True, False))
    parts = [
        *([f"{ran:,} in functions that were run"] if ran else []),
        *([f"{unseen:,} {_UNSEEN}"] if unseen else []),
    ]
    whole = plural(ran + unseen, "place")
    return (
        f"A scan of its source finds {whole} to check for a Mac: {enumerate_words(parts)}." if parts else ""
    )


def _found(one: SourceFinding) -> HazardView:
    more = f" and {len(one.places) - _PLACES} more" if len(one.places) > _PLACES else ""
    return HazardView(
        title=clean(one.title),
        advisory=clean(one.code),
        grade=f"{one.level} in its source, {'in a function that was run' if one.ran else _UNSEEN}",
        key="fail" if one.level == "error" else "warn",
        why=clean(one.why),
        place=clean(f"{', '.join(one.places[:_PLACES])}{more}"),
        fix=clean(one.fix),
    )


#: The number of places of one rule that are listed.
_PLACES = 12


def _when(one: Hazard) -> str:
    """Return from how many tokens on a fault is met that this workload does not reach; else how certain it is."""
    if one.reached and one.from_tokens is not None:
        return f"from {one.from_tokens:,} tokens on"
    return one.certainty


def _view(one: Hazard) -> HazardView:
    place = (
        f"{plural(one.calls, 'call')} of `{one.op}`{f' at {one.source}' if one.source else ''}"
        if one.op
        else ""
    )
    known = advisories.find(one.advisory)
    return HazardView(
        title=clean(one.title),
        advisory=clean(one.advisory),
        grade=f"{one.severity}, {_when(one)}",
        key="fail" if one.severity in ("critical", "high") else "warn",
        why=clean(one.why),
        place=clean(place),
        fix=clean(one.fix),
        link=known.links[0] if known is not None else "",
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
