"""State the verdict of a run in one sentence that is never better than its evidence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mpsprobe.quantities import enumerate_words, plural
from mpsprobe.report.fact_lists import two_releases
from mpsprobe.report.wording import EVIDENCE, open_checks, phase_numbers
from mpsprobe.run import Check, Evidence, OpVerdict, Phase, RecipeRecord, Run, Status, Viability, worst

#: Stages whose checks compute with the target; the stages before them inspect the machine and files.
_COMPUTING = (Phase.TRANSFER, Phase.DATA, Phase.INFERENCE, Phase.TRAINING, Phase.OPS, Phase.BENCHMARK)


@dataclass(frozen=True)
class VerdictBasis:
    """The evidence behind a run's verdict.

    Attributes:
        evidence: The weakest evidence that the verdict rests on; None when nothing was learnt.
        standing: The evidence with its device, for stamps and badges, such as `measured on cpu`.
        place: The end of the verdict's clause, such as ` on cpu (measured on this machine)`; empty without
            evidence.
        caveat: What the verdict does not show; empty for a run that was measured on a real Mac's MPS.
        limits: The caveats in full, one sentence each.
    """

    evidence: Evidence | None
    standing: str
    place: str
    caveat: str
    limits: tuple[str, ...]


def ground(run: Run, checks: list[Check]) -> VerdictBasis:
    """Determine the evidence behind the verdict on a run from its checks, including the one in flight."""
    learnt = [check for check in checks if check.evidence is not None]
    numbered = [check for check in learnt if check.phase.is_numbered] or learnt
    computed = [check for check in numbered if check.device != "host"]
    evidence = min((_evidence(check) for check in computed or numbered), key=_strength, default=None)
    return VerdictBasis(
        evidence=evidence,
        standing=_standing(run, numbered, evidence) if evidence else "no evidence",
        place=_place(run, numbered, evidence) if evidence else "",
        caveat=_caveat(run, learnt),
        limits=tuple(_limits(run, learnt)),
    )


def is_mac(run: Run) -> bool:
    """Return whether the run took place under macOS."""
    return run.host.system == "Darwin"


def _evidence(check: Check) -> Evidence:
    """Return a check's evidence; measured on an emulated device counts as emulated."""
    assert check.evidence is not None
    if check.device == "emulated" and check.evidence is Evidence.MEASURED:
        return Evidence.EMULATED
    return check.evidence


def _strength(evidence: Evidence) -> int:
    return list(Evidence).index(evidence)


def _place(run: Run, learnt: list[Check], evidence: Evidence) -> str:
    """Return the clause on where the target computed and how that is known."""
    devices = _devices(learnt)
    basis = _basis(run, evidence, on_mps=_measured_on_mps(learnt))
    if not devices:
        return f", {basis}"
    if devices == ["emulated"] and evidence is Evidence.EMULATED:
        return " on an emulated MPS device (computed on this machine)"
    names = ["an emulated MPS device" if name == "emulated" else name for name in devices]
    return f" on {enumerate_words(names)} ({basis})"


def _devices(learnt: list[Check]) -> list[str]:
    """Return the devices on which the target computed, in order."""
    return list(dict.fromkeys(c.device for c in learnt if c.phase in _COMPUTING and c.device != "host"))


def _standing(run: Run, learnt: list[Check], evidence: Evidence) -> str:
    if evidence is not Evidence.MEASURED:
        return EVIDENCE[evidence].text
    devices = _devices(learnt) or ["host"]
    names = [f"{name} (virtual GPU)" if name == "mps" and run.host.virtual_gpu else name for name in devices]
    return f"{evidence.value} on {enumerate_words(names)}"


def _basis(run: Run, evidence: Evidence, *, on_mps: bool) -> str:
    if on_mps and is_mac(run):
        if run.host.virtual_gpu:
            basis = "measured on a virtual GPU"
        else:
            basis = f"measured on this Mac, {run.host.chip}" if run.host.chip else "measured on this Mac"
        return basis if evidence is Evidence.MEASURED else f"{basis}, in part {evidence.value}"
    if evidence is Evidence.PREDICTED:
        return "predicted"
    return f"{evidence.value} on this machine"


def _measured_on_mps(learnt: list[Check]) -> bool:
    return any(check.device == "mps" and check.evidence is Evidence.MEASURED for check in learnt)


def _caveat(run: Run, learnt: list[Check]) -> str:
    if not is_mac(run):
        return "nothing here was measured on a Mac"
    if run.host.virtual_gpu:
        return "a virtual GPU is no evidence for real Macs"
    if not _measured_on_mps(learnt):
        return "nothing here was measured on MPS"
    weaker = [check for check in learnt if _evidence(check) is not Evidence.MEASURED]
    if weaker:
        kinds = enumerate_words(sorted({_evidence(check).value for check in weaker}))
        return f"{plural(len(weaker), 'check')} of it {'is' if len(weaker) == 1 else 'are'} only {kinds}"
    return ""


def _limits(run: Run, learnt: list[Check]) -> list[str]:
    """Return sentences on what the evidence does not show, beside the device's own limits (`Run.limits`)."""
    host, sentences = run.host, []
    if apart := two_releases(run):
        sentences.append(f"{apart}.")
    evidences = {check.evidence for check in learnt} | {use.evidence for use in run.op_uses}
    if not is_mac(run):
        sentences.append(
            f"This run took place on {host.system} {host.machine}: nothing in it was measured on a Mac."
        )
    if Evidence.PREDICTED in evidences:
        sentences.append(
            "What is marked predicted was derived without weights or a device: values that depend on data "
            "were assumed."
        )
    if is_mac(run) and not host.virtual_gpu and _measured_on_mps(learnt):
        torch = f", torch {host.packages['torch']}" if "torch" in host.packages else ""
        sentences.append(
            f"What is measured on mps holds for this machine ({host.chip or 'unknown chip'}, macOS "
            f"{host.os_version}{torch}); another chip, macOS or torch release can differ."
        )
    return sentences


_NUMBERED = [phase for phase in Phase if phase.is_numbered]
_OUTSIDE = [phase for phase in Phase if phase not in _NUMBERED]
_PASSED = (Status.PASS, Status.WARN)
_DIED = (Status.CRASHED, Status.TIMEOUT)

#: The check that fails where an op use meets an advisory about wrong results.
_WRONG = f"{Phase.OPS.value}.wrong"

#: The status and the word for each cause of an interruption.
_CAUSES: dict[str, Status] = {"crashed": Status.CRASHED, "timeout": Status.TIMEOUT}


@dataclass(frozen=True)
class Headline:
    """The verdict of a run, with everything that qualifies it.

    Attributes:
        outcome: What happened, on which device, and how that is known.
        caveat: What the outcome does not show; empty for a run that was measured on a real Mac.
        status: The worst status of the run.
        word: The word for that status; `interrupted` for a run that its user ended, `unfinished` for one that has
            no recorded end.
        evidence: The weakest evidence behind the outcome; None when nothing was learnt.
        standing: The evidence with its device: `measured on cpu`, `emulated`, `no evidence`.
        counts: The number of checks by status, in the order of `Status`, without statuses that do not occur.
        limits: Sentences that state what the evidence cannot show.
        recipe: The settings that make refused parts work, and whether they were tried; empty when none were
            searched for.
    """

    outcome: str
    caveat: str
    status: Status
    word: str
    evidence: Evidence | None
    standing: str
    counts: dict[Status, int]
    limits: tuple[str, ...]
    recipe: str = ""

    @property
    def sentence(self) -> str:
        """Join outcome and caveat into one sentence."""
        return f"{self.outcome}; {self.caveat}." if self.caveat else f"{self.outcome}."


def verdict(run: Run) -> Headline:
    """Return the headline of a run or a prediction, derived from its document."""
    checks = all_checks(run)
    if is_prediction(run):
        return _of_prediction(run)
    footing = ground(run, checks)
    counted = Counter(check.status for check in checks)
    status = worst(counted)
    word = status.value
    if run.interruption is not None and run.interruption.cause not in _CAUSES:
        others = worst(check.status for check in checks if check.id != run.interruption.check)
        status, word = (
            (others if others in (Status.FAIL, Status.ERROR, *_DIED) else Status.UNKNOWN),
            "interrupted",
        )
    elif run.interruption is not None:
        status = _CAUSES[run.interruption.cause]
        word = status.value
    elif not run.ended:
        status, word = (Status.UNKNOWN if status in _PASSED else status), "unfinished"
    return Headline(
        outcome=_outcome(run, checks, footing),
        caveat=footing.caveat,
        status=status,
        word=word,
        evidence=footing.evidence,
        standing=footing.standing,
        counts={each: counted[each] for each in Status if counted[each]},
        limits=tuple(dict.fromkeys([*run.limits, *footing.limits])),
        recipe=_recipe(checks),
    )


def _recipe(checks: list[Check]) -> str:
    """Return the message of the check that searched for a recipe; empty when there is none."""
    conclusive = (Status.PASS, Status.FAIL, Status.UNKNOWN)
    return next(
        (one.message for one in checks if isinstance(one.data, RecipeRecord) and one.status in conclusive), ""
    )


def is_prediction(run: Run) -> bool:
    """Return whether the document is a prediction: it has op uses, but no checks and no interruption."""
    return bool(run.op_uses) and not run.checks and run.interruption is None


def all_checks(run: Run) -> list[Check]:
    """Return the run's checks, and the one that was running when the run was interrupted."""
    flying = in_flight(run)
    return run.checks if flying is None else [*run.checks, flying]


def in_flight(run: Run) -> Check | None:
    """Return a check for the one that was running when the run was interrupted; None when none was."""
    cut = run.interruption
    if cut is None or not cut.check or any(check.id == cut.check for check in run.checks):
        return None
    status = _CAUSES.get(cut.cause, Status.UNKNOWN)
    by = f" with {cut.signal}" if cut.signal else ""
    what = {
        "crashed": f"The process died{by} while this check ran.",
        "timeout": "This check ran past its limit and the process was stopped.",
    }.get(cut.cause, f"The run was interrupted{by} while this check ran.")
    return Check(
        id=cut.check,
        phase=_phase_of(cut.check, run),
        title="The check that was in flight when the run ended",
        status=status,
        device=run.device.used,
        message=what,
        output=cut.output,
    )


def phase_status(checks: list[Check], phase: Phase) -> Status | None:
    """Return the worst status of a stage's checks; None when it has none."""
    present = [check.status for check in checks if check.phase is phase]
    return worst(present) if present else None


#: The status and the word for a prediction, by the viability of the MPS route.
_FORETOLD: dict[Viability, tuple[Status, str]] = {
    Viability.YES: (Status.PASS, "predicted to run"),
    Viability.CHANGES: (Status.WARN, "predicted to run with changes"),
    Viability.NO: (Status.FAIL, "predicted not to run"),
    Viability.UNKNOWN: (Status.UNKNOWN, "predicted in part"),
}


def _of_prediction(run: Run) -> Headline:
    """Build the headline of a prediction from its op uses on the target Mac."""
    routes = run.outlook.routes if run.outlook is not None else []
    route = next((route for route in routes if route.name == "mps"), None)
    viability = route.viability if route is not None else Viability.UNKNOWN
    status, word = _FORETOLD[viability]
    outcome = of_calls(run)
    if route is not None and viability is not Viability.YES:
        outcome += f"; {route.sentence[:1].lower()}{route.sentence[1:].rstrip('.')}"
    footing = ground(run, [])
    return Headline(
        outcome=outcome,
        caveat="predicted from its config: no result was computed, and nothing ran on a Mac",
        status=status,
        word=word,
        evidence=Evidence.PREDICTED,
        standing=Evidence.PREDICTED.value,
        counts={},
        limits=tuple(dict.fromkeys([*run.limits, *footing.limits])),
    )


def of_calls(run: Run, *, brief: bool = False) -> str:
    """Return a sentence on how many op calls of a prediction run on the GPU, and what happens to the others.

    Args:
        run: A prediction.
        brief: Whether the reader knows the target and the Mac already.
    """
    where = "" if brief else _asked(run)
    total, off = 0, Counter[OpVerdict]()
    for use in run.op_uses:
        total += use.count
        if use.verdict not in (OpVerdict.NATIVE, OpVerdict.COMPOSITE):
            off[use.verdict] += use.count
    calls, unloaded = "op calls" if brief else f"op calls of {run.target.name}", _unloaded(run)
    before, run_there = (f"{unloaded}, ", "would run") if unloaded else ("", "run")
    if not off:
        every = "all" if unloaded else "All"
        return f"{before}{every} {total:,} {calls} {run_there} on the GPU{where}"
    others = enumerate_words([f"{count:,} {_becomes(verdict, run)}" for verdict, count in off.most_common()])
    native = f"{total - sum(off.values()):,} of {total:,} {calls} {run_there} on the GPU{where}"
    return f"{before}{native}; {others}"


def _unloaded(run: Run) -> str:
    """Return a sentence if a checkpoint does not load or stays packed: the op calls are those of plain weights."""
    broken = (
        [one for one in run.predicted.refusals if one.kind == "weights"] if run.predicted is not None else []
    )
    if broken:
        return f"Its weights do not load: {broken[0].message.partition(': ')[2]}. With weights that load"
    found = run.predicted.quantisation if run.predicted is not None else None
    what = _UNLOADED.get(found.outcome) if found is not None else None
    if found is None or not what:
        return ""
    then = ", and the ops of packed weights are not predicted" if found.packed else ""
    return f"The checkpoint ({found.method}) {what}{then}. With plain weights"


#: Clauses about a quantised checkpoint, by the outcome of loading it.
_UNLOADED = {
    "packed": "stays packed",
    "raises": "does not load here",
    "ignored": "loads with wrong weights",
    "unknown": "may load with wrong weights: its method is not known",
}


def _becomes(verdict: OpVerdict, run: Run) -> str:
    """Return the clause that says what happens to op calls with a verdict.

    When only longer workloads meet wrong values, the clause states the smallest number of tokens at which they occur.
    """
    faults = run.predicted.hazards if run.predicted is not None else []
    met = [one for one in faults if one.symptom in ("wrong", "nan") and one.is_met]
    later = [one.from_tokens for one in met if one.certainty != "certain" and one.from_tokens is not None]
    if verdict is OpVerdict.WRONG and later and len(later) == len(met):
        return f"{_BECOMES[verdict]} from {min(later):,} tokens on"
    return _BECOMES[verdict]


#: Clauses about op calls that follow their number.
_BECOMES = {
    OpVerdict.FALLBACK: "fall back to the CPU",
    OpVerdict.RAISES: "raise",
    OpVerdict.WRONG: "give wrong values",
    OpVerdict.UNKNOWN: "are not known",
}


def _asked(run: Run) -> str:
    asked = run.mac
    if asked is None:
        return ""
    machine = f" of an {asked.chip}" if asked.chip else ""
    if asked.chip and asked.memory_gb is not None:
        machine += f" with {asked.memory_gb:g} GB"
    system = f", macOS {asked.macos}" if asked.macos else ""
    return (
        f"{machine} under torch {asked.torch}{system}"
        if machine
        else f" of a Mac under torch {asked.torch}{system}"
    )


def _phase_of(check_id: str, run: Run) -> Phase:
    """Return the stage in a check's id (`transfer.dtypes`), or the last stage that was reached."""
    stem = check_id.split(".", 1)[0]
    for phase in Phase:
        if phase.value == stem:
            return phase
    return run.checks[-1].phase if run.checks else Phase.AVAILABILITY


def _outcome(run: Run, checks: list[Check], footing: VerdictBasis) -> str:
    name = run.target.name
    at = {phase: status for phase in Phase if (status := phase_status(checks, phase)) is not None}
    died = [check for check in checks if check.status in _DIED]
    if run.interruption is not None or died:
        return f"{_ending(run, died)}{_before(checks, at)}"
    if broken := [phase for phase in at if at[phase] is Status.ERROR]:
        return f"mpsprobe itself failed in {_labels(broken)}: that says nothing about {name}"
    if not checks and not run.ended:
        return f"The run on {name} has no end and no check yet"
    place = footing.place if run.ended else f"{footing.place}, but the run has no end yet"
    if failed := [phase for phase in _NUMBERED if at.get(phase) is Status.FAIL]:
        return f"{name} failed {_failures(checks, failed)}{place}{_blocked(at)}"
    if blocked := [phase for phase in at if at[phase] is Status.BLOCKED]:
        return f"{name} got no further than {_labels(blocked[:1])}, which was blocked"
    if wrong := next((check for check in checks if check.id == _WRONG and check.status is Status.FAIL), None):
        fault = wrong.message.rstrip(".")
        return f"{name} runs{place}, but is known to give wrong results there: {fault}"
    return f"{name} {_passed(checks, at)}{place}{_reservations(checks)}"


def _ending(run: Run, died: list[Check]) -> str:
    """Return the clause on how the process ended, or during which check it died."""
    name, cut = run.target.name, run.interruption
    if cut is None:
        first = died[0]
        how = "crashed" if first.status is Status.CRASHED else "ran past its limit"
        more = f" and {plural(len(died) - 1, 'other check')}" if len(died) > 1 else ""
        return f"{name} {how} in {first.phase.label}, in the check {first.id}{more}"
    flying = in_flight(run) or next((check for check in run.checks if check.id == cut.check), None)
    where = (
        f"in {flying.phase.label}, in the check {flying.id}"
        if flying is not None
        else f"after {plural(len(run.checks), 'check')}, between two checks"
    )
    if cut.cause == "crashed":
        return f"{name} crashed{f' with {cut.signal}' if cut.signal else ''} {where}"
    if cut.cause == "timeout":
        return f"{name} ran past its limit {where}"
    return f"The run on {name} was interrupted{f' ({cut.signal})' if cut.signal else ''} {where}"


def _before(checks: list[Check], at: dict[Phase, Status]) -> str:
    """Return a sentence on what the stages before the interruption had shown."""
    passed = [phase for phase in _NUMBERED if at.get(phase) in _PASSED]
    failed = [check for check in checks if check.status is Status.FAIL]
    parts = [
        *([f"{phase_numbers(passed)} had passed"] if passed else []),
        *([f"{plural(len(failed), 'check')} had failed"] if failed else []),
    ]
    return f"; {enumerate_words(parts)}" if parts else ""


def _labels(phases: list[Phase]) -> str:
    return enumerate_words([phase.label for phase in phases])


def _failures(checks: list[Check], phases: list[Phase]) -> str:
    within = [check for check in checks if check.phase in phases]
    failed = [check for check in within if check.status is Status.FAIL]
    share = f"{len(failed):,} of {len(within):,} checks" if len(within) > 1 else "the one check"
    return f"{share} of {_labels(phases)}"


def _blocked(at: dict[Phase, Status]) -> str:
    blocked = [phase for phase in _NUMBERED if at.get(phase) is Status.BLOCKED]
    if not blocked:
        return ""
    return f"; {phase_numbers(blocked)} {'was' if len(blocked) == 1 else 'were'} blocked"


def _passed(checks: list[Check], at: dict[Phase, Status]) -> str:
    """Return a sentence on the stages that passed, and on how the per-op checks and benchmarks ended."""
    passed = [phase for phase in _NUMBERED if at.get(phase) in _PASSED]
    rest = [phase for phase in _OUTSIDE if phase in at]
    failed = [check for check in checks if check.phase in rest and check.status is Status.FAIL]
    words = []
    if len(passed) == len(_NUMBERED):
        more = " and training" if at.get(Phase.TRAINING) in _PASSED else ""
        open_ = {check.phase for check in checks if check.status is Status.UNKNOWN}
        partly = [phase for phase in passed if phase in open_]
        of_it = f" ({phase_numbers(partly)} in part)" if partly else ""
        words.append(f"passed all six phases{more}{of_it}")
    elif passed:
        words.append(f"passed {phase_numbers(passed)}")
    elif rest and any(at[phase] in _PASSED for phase in rest):
        done = sum(check.status in _PASSED for check in checks if check.phase in rest)
        words.append(f"passed {plural(done, 'check')} of {_labels(rest)}")
    if failed:
        words.append(f"{'but ' if words else ''}failed {plural(len(failed), 'check')} of {_labels(rest)}")
    return " ".join(words) or "was not checked"


def _reservations(checks: list[Check]) -> str:
    """Return a sentence on warnings and open questions, which a plain "passed" would hide."""
    warnings = sum(check.status is Status.WARN for check in checks)
    unknown = sum(check.status is Status.UNKNOWN for check in checks)
    parts = [
        *([plural(warnings, "warning")] if warnings else []),
        *([f"{plural(unknown, 'check')} unknown ({open_checks(checks)})"] if unknown else []),
    ]
    return f", with {enumerate_words(parts)}" if parts else ""
