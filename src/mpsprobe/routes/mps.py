"""The MPS route: what stops the target on that Mac, what would fix it, and how much of its time runs on the GPU."""

from __future__ import annotations

import dataclasses
import enum
import re
from dataclasses import dataclass

import msgspec

from mpsprobe.knowledge import advisories, environment, ops
from mpsprobe.knowledge.advisories import Advisory, Severity, Symptom
from mpsprobe.ops.verdicts import judge as judge_uses
from mpsprobe.quantities import decimal_size, plural, rough, seconds
from mpsprobe.routes import commands
from mpsprobe.routes.case import NATIVE, Case
from mpsprobe.run import Fit, OpUse, OpVerdict, RemedyKind, Route, Table, Viability

#: Shares of the op time on the GPU above which MPS is recommended, and below which it is not. The owner's own
#: thresholds: "> 90 % of ops", "70-90 %", "< 70 %"; here of time, since one op can take most of it.
MOST, PART = 0.90, 0.70

FALLBACK_VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK=1"
_DEADLY = (Symptom.ABORT, Symptom.HANG)
_NO_KERNEL = ops.Support.MISSING_NO_CPU
_SHOWN = 12
#: A share above this would round to 100 %.
_NEARLY = 0.9995


class Grade(str, enum.Enum):
    """How much of the op time is spent on the GPU, in words."""

    MOST = "most"
    PART = "part"
    LITTLE = "little"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Blocker:
    """Something that keeps the target from running, or from computing right results.

    Attributes:
        what: The obstacle in one sentence.
        fix: The fix; empty when none is known.
        calls: The number of op calls that meet it; 0 when it is not about an op.
        certain: False when it may not happen.
        release: The first later torch release without it; empty when there is none, or none is known.
        fallback: Whether the fallback variable helps.
        wrong: Whether it runs and gives wrong values, instead of raising or ending the process.
    """

    what: str
    fix: str = ""
    calls: int = 0
    certain: bool = True
    release: str = ""
    fallback: bool = False
    wrong: bool = False


@dataclass(frozen=True)
class Judgement:
    """The verdict on the MPS route.

    Attributes:
        viability: Whether the route is open.
        grade: How much of the op time runs on the GPU.
        stops: Everything that stops the target, the worst first.
        fit: Whether the memory fits.
        release: The first later torch release in which every op call runs on the GPU; empty when there is none, or
            when no stop is one that a release ends.
    """

    viability: Viability
    grade: Grade
    stops: tuple[Blocker, ...]
    fit: Fit
    release: str = ""

    @property
    def certain_stops(self) -> tuple[Blocker, ...]:
        """Return the blockers that are certain, without those that only may occur."""
        return tuple(stop for stop in self.stops if stop.certain)

    @property
    def possible_stops(self) -> tuple[Blocker, ...]:
        """Return the blockers that only may occur, which the changes before a run need not end."""
        return tuple(stop for stop in self.stops if not stop.certain)


def grade(share: float | None) -> Grade:
    """Return the grade of a share of op time: most above 90 %, part from 70 % on, else little; unknown for None."""
    if share is None:
        return Grade.UNKNOWN
    return Grade.MOST if share > MOST else Grade.PART if share >= PART else Grade.LITTLE


def share_of_time(share: float) -> str:
    """Format a share to begin a sentence: `All`, `Nearly all`, `87.5%`."""
    return "All" if share == 1 else "Nearly all" if share > _NEARLY else f"{share:.1%}"


def judge(case: Case) -> Judgement:
    """Return the verdict on the MPS route from the blockers, the memory and the time."""
    stops = tuple(_stops(case))
    found = grade(case.native_time)
    return Judgement(_viability(case, stops, found), found, stops, case.fit, _without(case, stops))


def route(case: Case, judgement: Judgement) -> Route:
    """Return the MPS route as a report shows it, with a table of what stops the target."""
    tables = {}
    if judgement.stops:
        rows: list[list[str | int | float | bool | None]] = [
            [
                one.what if one.certain else f"May apply: {one.what}",
                one.calls or None,
                one.fix or "nothing is known",
            ]
            for one in judgement.stops
        ]
        tables["What stands in the way"] = Table(["what", "calls", "what to do"], rows[:_SHOWN])
    return Route(
        name="mps",
        viability=judgement.viability,
        sentence=_sentence(judgement, packed=case.packed),
        reasons=_reasons(case, judgement),
        evidence=case.evidence,
        tables=tables,
        commands=[] if judgement.viability is Viability.NO else commands.of_mps(case, _changes(judgement)),
    )


def _changes(judgement: Judgement) -> commands.Changes:
    """Return the changes before a run: the fallback variable or a release where one helps, and the other fixes."""
    stops = judgement.certain_stops
    helped = [stop for stop in stops if stop.fallback or stop.release]
    fallback = bool(helped) and all(stop.fallback for stop in helped)
    if not judgement.release and not fallback:
        helped = [stop for stop in stops if stop.fallback]
    left = tuple(stop.fix for stop in stops if stop.fix and stop not in helped)
    return commands.Changes(judgement.release, fallback or (bool(helped) and not judgement.release), left)


def _viability(case: Case, stops: tuple[Blocker, ...], found: Grade) -> Viability:
    certain = [stop for stop in stops if stop.certain]
    if any(not stop.fix for stop in certain) or found is Grade.LITTLE:
        return Viability.NO
    if case.fit is Fit.NO:
        return Viability.CHANGES if _remedies(case) else Viability.NO
    if not case.uses or case.calls.get(OpVerdict.UNKNOWN) or (case.stopped and not certain):
        return Viability.UNKNOWN
    if case.packed:  # the ops of packed weights are not among those that were judged
        return Viability.UNKNOWN
    if certain:
        return Viability.CHANGES
    if case.fit is Fit.UNKNOWN or found is Grade.UNKNOWN:
        return Viability.UNKNOWN
    return Viability.YES


def _sentence(judgement: Judgement, *, packed: bool) -> str:
    if judgement.viability is Viability.YES:
        return "It runs on the Mac's GPU as it is."
    if judgement.viability is Viability.CHANGES:
        count = len(judgement.certain_stops) + (judgement.fit is Fit.NO)
        return f"It runs on the Mac's GPU after {plural(count, 'change')}."
    if judgement.viability is Viability.UNKNOWN and packed:
        return "Its weights stay packed, and the ops of packed weights are not predicted."
    if judgement.viability is Viability.UNKNOWN:
        return "Nothing certain speaks against MPS, but not enough is known to promise it."
    if judgement.grade is Grade.LITTLE:
        return "Most of the time would be spent outside the GPU, or waiting for copies."
    return "It does not run on this Mac's GPU, and no change is known that would let it."


def _reasons(case: Case, judgement: Judgement) -> list[str]:
    reasons = [_ops(case, changed=bool(judgement.certain_stops)), _time(case), _memory(case)]
    reasons += [
        f"{one.what}{f': {one.fix}' if one.fix else ''}".rstrip(".") + "." for one in judgement.stops[:_SHOWN]
    ]
    return [reason for reason in reasons if reason]


def _ops(case: Case, *, changed: bool = False) -> str:
    """Return how many calls run on the GPU of the release that was asked for, before any change is made."""
    share = case.native_calls
    if share is None:
        return "No op uses are known, so nothing is said of support."
    total = sum(case.calls.values())
    run_there = "with plain weights would run" if case.packed else "run"
    if share == 1:
        return f"All {plural(total, 'op call')} {run_there} on the GPU."
    others = {verdict: count for verdict, count in case.calls.items() if verdict not in NATIVE}
    since = f" from {case.wrong_from:,} tokens on" if case.wrong_from is not None else ""
    listed = ", ".join(
        f"{verdict.value}{since if verdict is OpVerdict.WRONG else ''}: {count:,}"
        for verdict, count in others.items()
    )
    before = f"On torch {case.mac.torch}, without the changes: " if changed else ""
    return f"{before}{total - sum(others.values()):,} of {plural(total, 'op call')} {run_there} on the GPU ({listed})."


def _time(case: Case) -> str:
    share, time = case.native_time, case.forecast.time if case.forecast else None
    if share is None:
        return "How much of the op time that is, is not known."
    text = f"{share_of_time(share)} of the op time is spent there"
    per_sample = time.per_sample if time else None
    if (measured := case.measured_seconds) is not None:
        return f"{text}; a {case.one} took {seconds(measured)}, measured."
    if per_sample is None or per_sample.expected is None:
        return f"{text}."
    spread = ""
    if per_sample.low is not None and per_sample.high is not None:
        spread = f" ({rough(per_sample.low)} to {rough(per_sample.high)})"
    of = f" for {case.workload}" if case.workload else ""
    plain = " with plain weights" if case.packed else ""
    return f"{text}; a {case.one}{plain} takes about {rough(per_sample.expected)}{spread}{of}."


def _memory(case: Case) -> str:
    memory = case.forecast.memory if case.forecast else None
    if memory is None:
        return "Whether it fits is not known: name a Mac with its memory, such as --mac m1-max-64."
    text = f"Memory: {memory.fit.label}"
    if memory.needed_bytes is not None and memory.available_bytes is not None:
        packed = " with packed weights" if case.packed else ""
        needed = decimal_size(memory.needed_bytes)
        said = memory.reason.startswith(needed)  # the next sentence then begins with that size
        text += packed if said else f", {needed} needed{packed} of {decimal_size(memory.available_bytes)}"
    return f"{text}. {memory.reason}".rstrip()


# ------------------------------------------------------------------------------------------------------ stops


def _stops(case: Case) -> list[Blocker]:
    """Return all that blocks the target: certain blockers first, those without a fix before others, then by calls."""
    stops = [
        *_closed(case),
        *_broken(case),
        *_raising(case),
        *_wrong(case),
        *_refused(case),
        *_deadly(case),
        *_swapping(case),
    ]
    return sorted(stops, key=lambda stop: (not stop.certain, bool(stop.fix), -stop.calls))


def _remedies(case: Case) -> list[str]:
    """Return the changes after which the target fits this Mac with PyTorch, as sentences."""
    memory = case.forecast.memory if case.forecast else None
    return [
        one.sentence
        for one in (memory.remedies if memory else [])
        if one.kind is RemedyKind.PYTORCH and one.fit is not Fit.NO
    ]


def _swapping(case: Case) -> list[Blocker]:
    """Return a blocker for a target that needs more than Metal recommends and so runs at the speed of the disk."""
    over = case.over_bytes
    if not over or case.fit is Fit.NO:
        return []
    what = f"it needs {decimal_size(over)} more than Metal recommends, so macOS swaps"
    return [Blocker(what, _remedies(case)[0].rstrip(".") if _remedies(case) else "close other programs")]


def _closed(case: Case) -> list[Blocker]:
    if case.mac.macos is None:
        return []
    answer = environment.macos_allows(case.mac.torch, case.mac.macos)
    return [Blocker(answer.message, "Update macOS, or use an older torch.")] if answer.ok is False else []


def _broken(case: Case) -> list[Blocker]:
    """Return a blocker for each failed check of the target under MPS's rules or on MPS itself."""
    if case.run.device.used not in ("mps", "emulated"):
        return []
    remedies = {f"{check.id}: {check.message}": check.remedy for check in case.run.checks}
    missing = {use.via or use.op for use in case.uses if use.verdict is OpVerdict.RAISES}
    broken = [text for text in case.broken if not any(f"'{op}'" in text for op in missing)]  # see `_raising`
    return [Blocker(text, remedies.get(text, "")) for text in broken]


def _raising(case: Case) -> list[Blocker]:
    groups: dict[str, list[OpUse]] = {}
    for use in case.uses:
        deadly = any(one.symptom in _DEADLY for one in _known(case, use)) if use.advisories else False
        if use.verdict is OpVerdict.RAISES and not deadly:
            groups.setdefault(use.via or use.op, []).append(use)
    return [_missing(case, op, uses) for op, uses in groups.items()]


def _missing(case: Case, op: str, uses: list[OpUse]) -> Blocker:
    calls = sum(use.count for use in uses)
    where = f" at {uses[0].source}" if uses[0].source else ""
    what = f"{op} raises on torch {case.mac.torch}{where}"
    fixes = []
    release, fallback = None, False
    with_fallback = msgspec.structs.replace(case.mac, fallback=True)
    if all(one.use.verdict is OpVerdict.RAISES for one in judge_uses(uses, case.mac)):
        # a check inside a kernel raises although the op is registered, and the fallback variable does not help there
        if fallback := all(one.use.verdict is OpVerdict.FALLBACK for one in judge_uses(uses, with_fallback)):
            fixes.append(f"set {FALLBACK_VARIABLE} before Python starts")
        if (release := _native_from(case, uses)) is not None:
            fixes.append(f"use torch {release}")
    return Blocker(
        what, " or ".join(fixes or _elsewhere(case, uses)), calls, release=release or "", fallback=fallback
    )


def _elsewhere(case: Case, uses: list[OpUse]) -> list[str]:
    """Return the advice to compute a line on the CPU; empty where it is unknown or the CPU has no kernel of the op."""
    first = uses[0]
    support = ops.release(case.mac.torch).lookup(first.op).support
    return [f"compute {first.source} on the CPU"] if first.source and support is not _NO_KERNEL else []


def _native_from(case: Case, uses: list[OpUse]) -> str | None:
    """Return the first later release that supports this macOS and runs all these ops on the GPU; None for none."""
    for release in _later(case):
        judged = judge_uses(uses, msgspec.structs.replace(case.mac, torch=release))
        if all(one.use.verdict in NATIVE for one in judged):
            return release
    return None


def _later(case: Case) -> list[str]:
    """Return the releases newer than the target Mac's that support MPS on its macOS."""
    releases, macos = ops.releases(), case.mac.macos
    later = releases[releases.index(ops.resolve_release(case.mac.torch)) + 1 :]
    return [one for one in later if macos is None or environment.macos_allows(one, macos).ok is not False]


def _without(case: Case, stops: tuple[Blocker, ...]) -> str:
    """Return the first later release that ends blockers and runs every op call on the GPU; empty for none."""
    helped = [stop for stop in stops if stop.certain and stop.release]
    if not helped or case.fit is Fit.NO:
        return ""
    later = _later(case)
    for release in later[max(later.index(stop.release) for stop in helped) :]:
        judged = judge_uses(case.uses, msgspec.structs.replace(case.mac, torch=release))
        if all(one.use.verdict in NATIVE for one in judged):
            return release
    return ""


def _wrong(case: Case) -> list[Blocker]:
    """Return a blocker for each advisory about wrong values that uses with the verdict `wrong` meet."""
    calls: dict[str, int] = {}
    bare = 0
    for use in case.uses:
        if use.verdict is OpVerdict.WRONG:
            silent = (Symptom.WRONG, Symptom.NAN)
            named = [one.id for one in _known(case, use) if one.symptom in silent]
            if not named:  # met only by larger inputs that the model allows: see `ops.verdicts`
                others = [advisories.by_id(name) for name in use.advisories]
                named = [
                    one.id for one in others if one.symptom in silent and one.severity is Severity.CRITICAL
                ]
            bare += 0 if named else use.count
            for name in named:
                calls[name] = calls.get(name, 0) + use.count
    stops = [_advised(case, advisories.by_id(name), count) for name, count in calls.items()]
    if bare:
        stops.append(Blocker("values are wrong, for a reason that no advisory names", "", bare))
    return [dataclasses.replace(one, wrong=True) for one in stops]


def _deadly(case: Case) -> list[Blocker]:
    """Return a blocker for each advisory about an abort or a hang, certain where the match is."""
    calls: dict[tuple[str, bool], int] = {}
    for use in case.uses:
        if not use.advisories:
            continue
        known = {one.id for one in _known(case, use)}
        for name in use.advisories:
            if advisories.by_id(name).symptom in _DEADLY:
                key = (name, name in known)
                calls[key] = calls.get(key, 0) + use.count
    return [
        _advised(case, advisories.by_id(name), count, certain) for (name, certain), count in calls.items()
    ]


def _advised(case: Case, advisory: Advisory, calls: int, certain: bool = True) -> Blocker:
    fix = advisory.fix or (f"use torch {advisory.first_good}" if advisory.first_good else "")
    if fix[1:2].islower():  # it continues a sentence
        fix = f"{fix[:1].lower()}{fix[1:]}".rstrip(".")
    good = ops.resolve_release(advisory.first_good) if advisory.first_good else ""
    release = good if good in _later(case) else ""
    faults = case.run.predicted.hazards if case.run.predicted is not None else []
    tokens = next((one.from_tokens for one in faults if one.advisory == advisory.id and one.reached), None)
    since = f", from {tokens:,} tokens on" if tokens is not None else ""
    return Blocker(f"{advisory.title} ({advisory.id}){since}", fix, calls, certain, release)


def _known(case: Case, use: OpUse) -> list[Advisory]:
    """Return the advisories that this use is certain to meet."""
    mac = case.mac
    matches = advisories.match(use, mac.torch, mac.macos, mac.chip)
    return [one.advisory for one in matches if one.certainty is advisories.Certainty.CERTAIN]


def _refused(case: Case) -> list[Blocker]:
    stops = [
        Blocker(
            f"{one.what.rstrip('.')}{f' at {one.where}' if one.where else ''}",
            one.fix or ("change that line" if one.where else ""),
            certain=one.certain,
        )
        for one in case.refusals
    ]
    if case.stopped and not stops and not case.calls.get(OpVerdict.RAISES):
        stops.append(_ended(case))
    return stops


def _ended(case: Case) -> Blocker:
    """Return the blocker for an error in the target's own code; a dtype mismatch can be fixed by a local cast.

    The stop is not certain where an assumed value or a made-up input may be the cause.
    """
    what = f"its code ended early: {case.stopped}".rstrip(".")
    if "dtype" in case.stopped:
        at = re.search(r"\(at (.+)\)$", case.stopped)
        return Blocker(what, f"cast to one dtype at {at[1] if at else 'that line'}")
    return Blocker(what, case.next_step, certain=not case.assumed and not case.next_step)
