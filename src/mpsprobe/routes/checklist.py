"""Answer a checklist of questions about a target from checks where they ran, else from the prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mpsprobe.knowledge import environment
from mpsprobe.quantities import decimal_size, seconds
from mpsprobe.routes import mps
from mpsprobe.routes.case import Case
from mpsprobe.run import Check, Evidence, Fit, OpVerdict, Phase, Status, Table

#: The longest acceptable time of a sample in seconds.
ACCEPTABLE_S = 300.0

YES, NO, OPEN = "yes", "no", "unknown"


@dataclass(frozen=True)
class Answer:
    """The answer to one question of the checklist, with its grounds.

    Attributes:
        word: `yes`, `no` or `unknown`.
        found: The grounds in one sentence.
        evidence: How that is known; None where nothing was learnt.
        device: The device of the check behind the answer; empty for a prediction.
    """

    word: str
    found: str
    evidence: Evidence | None = None
    device: str = ""


def table(case: Case, judgement: mps.Judgement | None = None) -> Table:
    """Return the checklist as a table: question, answer as it is, evidence and grounds.

    Where something stands in the way that changes remove, a last column answers for the target after them.

    Args:
        case: The target, the Mac and the forecast.
        judgement: The verdict on the MPS route; None for no such column.
    """
    stops = judgement.certain_stops if judgement is not None else ()
    changed = bool(stops) and all(stop.fix for stop in stops)
    rows: list[list[str | int | float | bool | None]] = []
    for question, ask, only in _QUESTIONS:
        if only and only not in case.run.target.asks:
            continue
        if case.run.target.training is not None:
            question = _OF_TRAINING.get(ask, question)
        answer = ask(case)
        basis = answer.evidence.value if answer.evidence else ""
        place = (
            f" on {answer.device}" if answer.device not in ("", basis) else ""
        )  # not "emulated on emulated"
        row = [question, answer.word, answer.found, f"{basis}{place}"]
        rows.append([*row, _after(case, ask, answer)] if changed else [*row])
    columns = ["question", "answer", "found", "evidence"]
    return Table([*columns, "after the changes"] if changed else columns, rows)


def _after(case: Case, ask: Ask, answer: Answer) -> str:
    """Return the answer to a question for the target after all changes, which is a prediction because none is made."""
    if answer.word == YES or ask in (_memory, _speed):
        return answer.word
    known = (
        case.fit not in (Fit.UNKNOWN, Fit.NO) and not case.calls.get(OpVerdict.UNKNOWN) and not case.packed
    )
    if known and (ask is _loads or (ask in (_forward, _completes) and not case.stopped)):
        return f"{YES}, predicted"
    return OPEN


def _available(case: Case) -> Answer:
    if case.run.host.system == "Darwin":
        answer = _of_checks(case, "availability.", ("mps", "host"))
        if answer is not None:
            return answer
    mac = case.mac
    if mac.macos is None:
        return Answer(OPEN, "No macOS was named, and no Mac was at hand.")
    allowed = environment.macos_allows(mac.torch, mac.macos)
    word = OPEN if allowed.ok is None else YES if allowed.ok else NO
    return Answer(word, allowed.message, Evidence.PREDICTED if allowed.ok is not None else None)


def _loads(case: Case) -> Answer:
    if (answer := _of_checks(case, "transfer.")) is not None:
        return answer
    made = case.run.predicted
    for one in made.refusals if made is not None else ():
        if one.phase is Phase.TRANSFER and one.grade == "certain" and one.kind != "memory":
            return Answer(NO, one.message.strip().splitlines()[0].rstrip(".") + ".", Evidence.PREDICTED)
    if case.fit is Fit.UNKNOWN or not case.uses:
        return Answer(OPEN, "Whether it fits is not known.")
    word = NO if case.fit is Fit.NO else YES
    return Answer(word, f"Memory: {case.fit.label}.", Evidence.PREDICTED)


def _forward(case: Case) -> Answer:
    if (answer := _of_checks(case, "inference.runs")) is not None:
        return answer
    if not case.uses:
        return Answer(OPEN, "No op uses are known.")
    raising = case.calls.get(OpVerdict.RAISES, 0)
    if raising:
        return Answer(NO, f"{raising:,} op calls raise.", case.ops_evidence)
    if case.calls.get(OpVerdict.UNKNOWN) or case.refusals:
        return Answer(
            OPEN, "Some of what it does is not known, or refused under assumptions.", case.ops_evidence
        )
    return Answer(YES, "No op raises.", case.ops_evidence)


def _completes(case: Case) -> Answer:
    if (answer := _of_checks(case, "inference.runs")) is not None:
        return answer
    if case.stopped:
        return Answer(NO, f"Its code ended early: {case.stopped}", case.ops_evidence)
    forward = _forward(case)
    if forward.word != YES:
        return forward
    whole = "inference" if case.run.target.training is None else "step"
    return Answer(YES, f"The whole {whole} was followed to its end.", case.ops_evidence)


def _traced(case: Case) -> Answer:
    return _of_outputs(case, "A reasoning trace needs real values: none were computed.")


def _trajectory(case: Case) -> Answer:
    return _of_outputs(case, "Whether outputs are right needs real values: none were computed.")


def _matches(case: Case) -> Answer:
    wrong = case.calls.get(OpVerdict.WRONG)
    if wrong and case.wrong_from is not None:
        since = f"from {case.wrong_from:,} tokens on, which this workload does not reach"
        return Answer(OPEN, f"{wrong:,} op calls are known to give wrong values {since}.", case.ops_evidence)
    if wrong:
        return Answer(NO, f"{wrong:,} op calls are known to give wrong values.", case.ops_evidence)
    missing = "No result of a CUDA machine was at hand: `mpsprobe baseline` writes one down."
    parity = _of_checks(case, "inference.parity")
    if parity is None:
        return Answer(OPEN, missing)
    if parity.word == NO:
        return parity
    return Answer(
        OPEN, f"{missing} Against float32 on the CPU: {parity.found}", parity.evidence, parity.device
    )


def _memory(case: Case) -> Answer:
    answer = _of_checks(case, "inference.memory")
    if answer is not None and answer.device == "mps":
        return answer
    memory = case.forecast.memory if case.forecast else None
    if memory is None or memory.fit is Fit.UNKNOWN or memory.needed_bytes is None:
        return Answer(OPEN, "The memory needed, or that of the Mac, is not known.")
    of = f" of {decimal_size(memory.available_bytes)}" if memory.available_bytes else ""
    found = f"{decimal_size(memory.needed_bytes)}{of}: {memory.fit.label}."
    return Answer(NO if memory.fit is Fit.NO else YES, found, Evidence.PREDICTED)


def _speed(case: Case) -> Answer:
    limit, one = seconds(ACCEPTABLE_S), f"a {case.one}{f' ({case.workload})' if case.workload else ''}"
    if (measured := case.measured_seconds) is not None:
        word = YES if measured < ACCEPTABLE_S else NO
        return Answer(word, f"{seconds(measured)} {one}; {limit} are acceptable.", Evidence.MEASURED, "mps")
    time = case.forecast.time if case.forecast else None
    span = time.per_sample if time else None
    if span is None:
        return Answer(OPEN, "The time of a sample was not forecast.")
    if span.floor > ACCEPTABLE_S:
        return Answer(
            NO, f"At least {seconds(span.floor)} {one}; {limit} are acceptable.", Evidence.PREDICTED
        )
    if span.expected is None or span.high is None:
        return Answer(
            OPEN, f"At least {seconds(span.floor)} {one}; the likely time is not known.", Evidence.PREDICTED
        )
    found = f"About {seconds(span.expected)} {one}, up to {seconds(span.high)}; {limit} are acceptable."
    word = YES if span.high < ACCEPTABLE_S else NO if span.expected > ACCEPTABLE_S else OPEN
    return Answer(word, found, Evidence.PREDICTED)


Ask = Callable[[Case], Answer]

#: The questions: text, the function that answers it, and the name by which a profile asks it (`""` for questions that
# every target has).
_QUESTIONS: tuple[tuple[str, Ask, str], ...] = (
    ("MPS availability confirmed", _available, ""),
    ("Model loads to MPS", _loads, ""),
    ("Forward pass works", _forward, ""),
    ("Inference completes", _completes, ""),
    ("Reasoning trace extracted", _traced, "trace"),
    ("Trajectory predicted", _trajectory, "trajectory"),
    ("Results match a CUDA baseline, if there is one", _matches, ""),
    ("Memory usage acceptable", _memory, ""),
    (f"Inference speed acceptable (under {ACCEPTABLE_S / 60:g} min a sample)", _speed, ""),
)


#: The questions about a training step, where they have other words than those about an inference.
_OF_TRAINING: dict[Ask, str] = {
    _forward: "Forward and backward pass work",
    _completes: "The training step completes",
    _speed: f"Speed acceptable (under {ACCEPTABLE_S / 60:g} min a step)",
}


def _of_outputs(case: Case, otherwise: str) -> Answer:
    """Return the answer that the checks of the outputs' shape and meaning give, or `otherwise` without them."""
    answers = [
        answer
        for name in ("inference.outputs", "inference.meaning")
        if (answer := _of_checks(case, name)) is not None and answer.word in (YES, NO)
    ]
    if not answers:
        return Answer(OPEN, otherwise)
    return next((answer for answer in answers if answer.word == NO), answers[0])


def _of_checks(case: Case, prefix: str, devices: tuple[str, ...] = ("mps", "emulated")) -> Answer | None:
    """Return the answer of those checks whose id has the prefix; None when none of them learnt anything.

    Checks on other devices than `devices` are ignored, because they show nothing about MPS.
    """
    learnt = [
        check
        for check in case.run.checks
        if check.id.startswith(prefix)
        and check.device in devices
        and check.evidence is not None
        and check.status is not Status.UNKNOWN
    ]
    if not learnt:
        return None
    bad = [check for check in learnt if check.status not in (Status.PASS, Status.WARN)]
    telling = bad[0] if bad else learnt[0]
    evidence = min((_level(check) for check in learnt), key=list(Evidence).index)
    found = telling.message or telling.title
    if not bad and len(learnt) > 1:
        found = f"{len(learnt)} checks passed."
    return Answer(NO if bad else YES, found, evidence, telling.device)


def _level(check: Check) -> Evidence:
    assert check.evidence is not None
    emulated = check.device == "emulated" and check.evidence is Evidence.MEASURED
    return Evidence.EMULATED if emulated else check.evidence
