"""Prepare a run for its reports: everything is looked up, worded and selected here, and templates only print.

Texts are plain and free of control characters; each format escapes them itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mpsprobe.quantities import plural
from mpsprobe.report.answer import ShortAnswer, answer, next_step
from mpsprobe.report.charts import (
    BarChart,
    SpreadChart,
    StackedBar,
    kinds_chart,
    memory_bar,
    rounds_chart,
    time_chart,
    verdict_chart,
)
from mpsprobe.report.checkview import OUTPUT_LINES, CheckView, Number, check_views, number, spent
from mpsprobe.report.fact_lists import FactList, command, elapsed, fact_lists, install, moment
from mpsprobe.report.hazardview import HazardList, hazard_list, waits_folds, warning
from mpsprobe.report.headline import Headline, all_checks, in_flight, is_prediction, phase_status, verdict
from mpsprobe.report.mosaics import Mosaic, releases_chart
from mpsprobe.report.opview import FaultMark, OpTable, OpUses, op_table, op_uses
from mpsprobe.report.outlookview import (
    AdviceView,
    FoldView,
    MemoryView,
    OutlookView,
    RateView,
    TitledGrid,
    advice_view,
    outlook_view,
    rate_views,
    stops_view,
)
from mpsprobe.report.templating import clean, tail
from mpsprobe.report.wording import EVIDENCE, PARTIAL, STATUS, VERDICT, Word, evidence_word
from mpsprobe.run import Check, Phase, Run, Status

#: Statuses that make a check a problem to solve; they are shown in this order.
PROBLEMS = (Status.CRASHED, Status.TIMEOUT, Status.FAIL, Status.ERROR)

#: A phase with more passed checks than this folds them (the per-op checks are hundreds).
_FOLD_ABOVE = 12

#: Stages and units of the numbers that answer "how well does it run", the most telling first.
_KEY_PHASES = (Phase.INFERENCE, Phase.TRANSFER)  # the chart of benchmarks shows those of benchmarks
_KEY_UNITS = ("s", "bytes", "B", "tokens/s")
_KEY_NUMBERS = 8
_TIMES = ("s", "tokens/s")

#: The anchor of the section for stages of which every check was blocked.
_BARRIERS = "blocked-phases"

#: The number of rows in the section of ops that break; the table of all op uses has the others.
_BREAKS = 12

#: The number of characters of the first failure in the banner.
_SAID = 240

#: The title of those rows.
_BREAKING = "Op calls that the Mac refuses, moves to the CPU or gets wrong"

#: The number of failures that the short summary lists.
_SUMMARY_PROBLEMS = 10


@dataclass(frozen=True)
class Fold:
    """Checks that are folded behind one line; `by` and `reason` state which phase blocked them and why, if one did."""

    title: str
    checks: tuple[CheckView, ...]
    by: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Barrier:
    """Stages that did not run, with the one reason for all of them."""

    title: str
    reason: str
    folds: tuple[Fold, ...]


@dataclass(frozen=True)
class PhaseView:
    """A stage as a template prints it: its tile in the strip, and its section."""

    anchor: str
    number: str
    name: str
    label: str
    status: Word
    state: str
    counts: str
    duration: str
    checks: tuple[CheckView, ...]
    blocked: tuple[Fold, ...]
    folded: Fold | None

    @property
    def ran(self) -> bool:
        """Return whether the stage has anything to show beyond its tile."""
        return bool(self.checks or self.blocked or self.folded)


@dataclass(frozen=True)
class CutOff:
    """How and during which check a run was cut off, with the last output."""

    title: str
    signal: str
    check: str
    output: str
    last_line: str


@dataclass(frozen=True)
class Count:
    """A status, and the number of checks that ended with it as text."""

    status: Word
    text: str


@dataclass(frozen=True)
class Page:
    """The texts, numbers and charts of a run that the templates of its reports print."""

    title: str
    answer: ShortAnswer
    headline: Headline
    status: Word
    state: str
    evidence: Word
    caveat: str
    counts: tuple[Count, ...]
    tally: str
    when: str
    elapsed: str
    run_id: str
    version: str
    target: str
    device: str
    ending: CutOff | None
    phases: tuple[PhaseView, ...]
    extras: tuple[PhaseView, ...]
    stages: tuple[PhaseView, ...]
    barriers: tuple[Barrier, ...]
    blocked: Word
    facts: tuple[FactList, ...]
    key_numbers: tuple[Number, ...]
    rates: tuple[RateView, ...]
    numbers: tuple[Number, ...]
    problems: tuple[CheckView, ...]
    first_problems: tuple[CheckView, ...]
    more_problems: str
    warnings: tuple[CheckView, ...]
    advice: AdviceView | None
    outlook: OutlookView | None
    ops: OpUses | None
    blocker: str
    hazard: str
    hazards: HazardList | None
    waits: tuple[FoldView, ...]
    stops: TitledGrid | None
    breaks: OpTable | None
    faults: tuple[FaultMark, ...]
    more_breaks: str
    memory_bar: StackedBar | None
    charts: tuple[BarChart, ...]
    rounds: SpreadChart | None
    releases: Mosaic | None
    glance: bool
    memory: MemoryView | None
    route: str
    breaking: str
    staged: bool
    limits: tuple[str, ...]
    command: str
    install: str
    statuses: tuple[Word, ...]
    evidences: tuple[Word, ...]
    verdicts: tuple[Word, ...]


def page(run: Run) -> Page:
    """Return all that the reports on a run print, worded and selected."""
    headline = verdict(run)
    checks = all_checks(run)
    views = check_views(checks, run)
    forecast = run.outlook.forecast if run.outlook is not None else None
    bar = memory_bar(forecast.memory) if forecast and forecast.memory else None
    stops = stops_view(run.outlook)
    one = "sample" if run.target.training is None else "step"
    drawn = (
        time_chart(forecast.time, one) if forecast and forecast.time else None,
        kinds_chart(forecast.time if forecast else None, run.op_uses),
        verdict_chart(run.op_uses),
    )
    charts = tuple(chart for chart in drawn if chart is not None)
    keys = tuple(_key_numbers(checks, emulated=run.device.used == "emulated"))
    benchmarks = rounds_chart(checks)
    quantised = run.predicted.quantisation if run.predicted is not None else None
    rates = rate_views(forecast, packed=quantised is not None and quantised.packed) if forecast else ()
    ops = op_uses(run.op_uses)
    trouble = ops.breaks if ops is not None else ()
    breaks = op_table(_BREAKING, trouble[:_BREAKS]) if trouble else None
    hazards = hazard_list(run.predicted.hazards, run.predicted.source) if run.predicted else None
    stages = tuple(_stage(run, phase, checks, views) for phase in Phase)
    shown = tuple(stage for stage in stages if stage.checks or stage.folded)
    barriers = tuple(_barriers(checks, views))
    advice, outlook = advice_view(run.outlook), outlook_view(run.outlook)
    problems = [
        view for status in PROBLEMS for check, view in _pairs(checks, views) if check.status is status
    ]
    warnings = [view for check, view in _pairs(checks, views) if check.status is Status.WARN]
    name = clean(run.target.name)
    return Page(
        title=f"mpsprobe: {name}: {headline.word}",
        answer=answer(run),
        headline=replace(headline, limits=tuple(map(clean, headline.limits)), recipe=clean(headline.recipe)),
        status=STATUS[headline.status],
        state=headline.word,
        evidence=replace(evidence_word(headline.evidence), text=clean(headline.standing)),
        caveat=f"{headline.caveat[:1].upper()}{headline.caveat[1:]}." if headline.caveat else "",
        counts=tuple(
            Count(STATUS[status], f"{count:,} {status.value}") for status, count in headline.counts.items()
        ),
        tally=", ".join(f"{count:,} {status.value}" for status, count in headline.counts.items()),
        when=moment(run.started),
        elapsed="" if is_prediction(run) else elapsed(run),
        run_id=clean(run.id),
        version=clean(run.mpsprobe),
        target=name,
        device=clean(run.device.used),
        ending=_ending(run),
        phases=() if is_prediction(run) else stages[:6],
        extras=tuple(stage for stage in stages[6:] if stage.ran),
        stages=shown,
        barriers=barriers,
        blocked=STATUS[Status.BLOCKED],
        facts=fact_lists(run),
        key_numbers=keys,
        rates=rates,
        numbers=tuple(number(each, check) for check in checks for each in check.measurements),
        problems=tuple(problems),
        first_problems=tuple(problems[:_SUMMARY_PROBLEMS]),
        more_problems=f"and {plural(len(problems) - _SUMMARY_PROBLEMS, 'more failure')}"
        if len(problems) > _SUMMARY_PROBLEMS
        else "",
        warnings=tuple(warnings),
        advice=advice or next_step(run, headline, problems),
        outlook=outlook,
        ops=ops,
        blocker=_blocker(problems),
        hazard=clean(warning(run)),
        hazards=hazards,
        waits=tuple(waits_folds(run)),
        stops=stops,
        breaks=breaks,
        faults=tuple(one for one in ops.faults if breaks is None or one not in breaks.faults) if ops else (),
        more_breaks=plural(len(trouble) - _BREAKS, "more row") if len(trouble) > _BREAKS else "",
        memory_bar=bar,
        charts=charts,
        rounds=benchmarks,
        releases=releases_chart(run.predicted.releases) if run.predicted else None,
        glance=bool(bar or charts or keys or rates or benchmarks),
        memory=outlook.memory if outlook is not None else None,
        route=advice.route if advice is not None else "",
        breaking="What breaks" if problems or trouble or hazards or stops else "",
        staged=bool(shown or barriers),
        limits=tuple(map(clean, headline.limits)),
        command=command(run),
        install=install(run),
        statuses=(*STATUS.values(), PARTIAL),
        evidences=tuple(EVIDENCE.values()),
        verdicts=tuple(VERDICT.values()),
    )


def _blocker(problems: Sequence[CheckView]) -> str:
    """Return what the first failed check said, and how many more there are; empty without one that says anything."""
    if not problems or not problems[0].message:
        return ""
    said = " ".join(problems[0].message.split())
    said = said if len(said) <= _SAID else f"{said[:_SAID].rsplit(' ', 1)[0]} ..."
    more = f" ({plural(len(problems) - 1, 'more failed check')})" if len(problems) > 1 else ""
    return said + more


def _pairs(checks: list[Check], views: dict[str, CheckView]) -> Iterable[tuple[Check, CheckView]]:
    return [(check, views[check.id]) for check in checks]


def _key_numbers(checks: list[Check], *, emulated: bool) -> list[Number]:
    """Return the numbers of the first tiles; on an emulated device no times, which are those of this machine."""
    found = [
        number(each, check)
        for phase in _KEY_PHASES
        for check in checks
        if check.phase is phase
        for each in check.measurements
        if each.unit in _KEY_UNITS
        and isinstance(each.value, int | float)
        and each.value
        # a time of this machine says nothing of the Mac whose rules were emulated
        and not (each.device in ("emulated", "host") and emulated and each.unit in _TIMES)
    ]
    return found[:_KEY_NUMBERS]


def _stage(run: Run, phase: Phase, checks: list[Check], views: dict[str, CheckView]) -> PhaseView:
    present = [check for check in checks if check.phase is phase]
    status = phase_status(checks, phase)
    partial = status is Status.PASS and any(check.status is Status.UNKNOWN for check in present)
    passed = [check for check in present if check.status is Status.PASS]
    fold = len(passed) > _FOLD_ABOVE
    shown = [c for c in present if c.status is not Status.BLOCKED and not (fold and c.status is Status.PASS)]
    return PhaseView(
        anchor=_BARRIERS if status is Status.BLOCKED and not shown and not fold else phase.marker,
        number=str(phase.order) if phase.is_numbered else "",
        name=phase.value,
        label=_label(phase),
        status=PARTIAL if partial else STATUS[status or Status.UNKNOWN],
        state=PARTIAL.text if partial else _state(run, status, present),
        counts=" · ".join(
            f"{count:,} {each.value}" for each in Status if (count := sum(c.status is each for c in present))
        ),
        duration=spent(sum(check.duration_s for check in present)),
        checks=tuple(_in_phase(check, views[check.id]) for check in shown),
        blocked=tuple(_blocked(present, views)),
        folded=Fold(f"{plural(len(passed), 'check')} passed", tuple(views[c.id] for c in passed))
        if fold
        else None,
    )


def _label(phase: Phase) -> str:
    return phase.label[:1].upper() + phase.label[1:]


def _state(run: Run, status: Status | None, present: list[Check]) -> str:
    """Return the word on a stage's tile: its status, or why it has none."""
    flying = in_flight(run)
    if flying is not None and flying.status is Status.UNKNOWN and flying in present:
        return "interrupted"
    if status is not None:
        return status.value
    return "not reached" if run.interruption is not None or not run.ended else "not run"


def _in_phase(check: Check, view: CheckView) -> CheckView:
    """Return a check as its phase shows it: without its details where the problems or warnings show them."""
    if check.status in PROBLEMS or check.status is Status.WARN:
        return replace(view, see=view.anchor, anchor="", remedy="", numbers=(), grid=None, output="")
    return view


def _blocked(present: list[Check], views: dict[str, CheckView]) -> list[Fold]:
    """Return the blocked checks as folds, one for each blocking phase and reason."""
    groups: dict[tuple[str, str], list[Check]] = defaultdict(list)
    for check in present:
        if check.status is Status.BLOCKED:
            by = f" by {check.blocked_by.label}" if check.blocked_by else ""
            groups[by, clean(check.message)].append(check)
    return [
        Fold(
            title=f"{plural(len(group), 'check')} blocked{by}",
            by=by,
            reason=reason,
            checks=tuple(views[check.id] for check in group),
        )
        for (by, reason), group in groups.items()
    ]


def _barriers(checks: list[Check], views: dict[str, CheckView]) -> list[Barrier]:
    """Group by reason the stages of which every check was blocked, so that each reason is shown once."""
    groups: dict[tuple[str, str], list[Fold]] = defaultdict(list)
    for phase in Phase:
        present = [check for check in checks if check.phase is phase]
        if any(check.status is not Status.BLOCKED for check in present):
            continue
        for fold in _blocked(present, views):
            title = f"{_label(phase)}: {plural(len(fold.checks), 'check')}"
            groups[fold.by, fold.reason].append(replace(fold, title=title, reason=""))
    return [Barrier(f"Not run: blocked{by}", reason, tuple(folds)) for (by, reason), folds in groups.items()]


def _ending(run: Run) -> CutOff | None:
    cut = run.interruption
    if cut is None:
        return None
    title = {"crashed": "The process died", "timeout": "The process was stopped at its time limit"}.get(
        cut.cause, "The run was interrupted"
    )
    output = tail(cut.output, OUTPUT_LINES) if cut.output.strip() else ""
    return CutOff(
        title=title,
        signal=clean(cut.signal) or "none seen",
        check=clean(cut.check) or "none: it ended between two checks",
        output=output,
        last_line=output.rpartition("\n")[2],
    )
