"""Define the word, symbol and explanation of each status, evidence level and verdict, and the format of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpsprobe.quantities import decimal_size, enumerate_words, plain, scaled_flops, seconds
from mpsprobe.run import Check, Epoch, Evidence, Fit, Measurement, OpVerdict, Phase, Status, Timing, Viability


@dataclass(frozen=True)
class Word:
    """The word, symbol and explanation with which reports show a status, an evidence level or a verdict.

    Attributes:
        key: The value in run.json, which is also the name of the icon and the CSS class.
        text: The word that readers see.
        symbol: An emoji for Markdown, where colour cannot be set; empty when there is none.
        meaning: One explanation, used in legends.
    """

    key: str
    text: str
    symbol: str
    meaning: str


STATUS: dict[Status, Word] = {
    Status.PASS: Word("pass", "pass", "✅", "The assertion holds."),
    Status.WARN: Word("warn", "warn", "⚠️", "It holds, but something needs attention."),
    Status.FAIL: Word("fail", "fail", "❌", "The assertion does not hold."),
    Status.CRASHED: Word("crashed", "crashed", "💥", "The process died under this check."),
    Status.TIMEOUT: Word("timeout", "timeout", "⏱️", "It ran past its time limit and was stopped."),
    Status.ERROR: Word("error", "error", "🔧", "mpsprobe itself failed: this says nothing about the target."),
    Status.BLOCKED: Word("blocked", "blocked", "⛔", "An earlier phase failed, so this could not run."),
    Status.SKIPPED: Word("skipped", "skipped", "⏭️", "It does not apply here."),
    Status.UNKNOWN: Word(
        "unknown", "unknown", "❔", "It was not checked; the message says what it would need."
    ),
}

EVIDENCE: dict[Evidence, Word] = {
    Evidence.PREDICTED: Word(
        "predicted", "predicted", "▮▯▯", "Derived from known facts: no weights and no device were used."
    ),
    Evidence.EMULATED: Word(
        "emulated",
        "emulated",
        "▮▮▯",
        "Real values under the rules of MPS, computed on another kind of device.",
    ),
    Evidence.MEASURED: Word("measured", "measured", "▮▮▮", "Measured on the device that is named beside it."),
}

#: The word for a stage of which some checks passed and others are unknown, which is less than a pass.
PARTIAL = Word("partial", "pass in part", "❔", "Of a phase: what was checked passed, the rest is unknown.")

#: Shown where nothing was learnt (blocked, skipped, unknown).
NO_EVIDENCE = Word("none", "none", "▯▯▯", "Nothing was learnt.")

VERDICT: dict[OpVerdict, Word] = {
    OpVerdict.RAISES: Word("raises", "raises", "❌", "Stops with an error on that Mac."),
    OpVerdict.WRONG: Word("wrong", "wrong", "❌", "Runs, but is known or was measured to give wrong values."),
    OpVerdict.FALLBACK: Word(
        "fallback", "fallback", "⚠️", "Runs on the CPU, with copies to and from the GPU."
    ),
    OpVerdict.UNKNOWN: Word("unknown", "unknown", "❔", "Not known."),
    OpVerdict.COMPOSITE: Word("composite", "composite", "✅", "Runs through other ops that are native."),
    OpVerdict.NATIVE: Word("native", "native", "✅", "Has a kernel of its own on MPS."),
}


#: Words for the viability of a route. Keys are those of statuses, whose icons and colours they share.
VIABILITY: dict[Viability, Word] = {
    Viability.YES: Word("pass", "yes", "✅", "The route is open as it is."),
    Viability.CHANGES: Word("warn", "with changes", "⚠️", "It is open after the changes that it names."),
    Viability.NO: Word("fail", "no", "❌", "It leads nowhere, or nowhere worth going."),
    Viability.UNKNOWN: Word(
        "unknown", "unknown", "❔", "Not enough is known; its reasons say what is missing."
    ),
}

FIT: dict[Fit, Word] = {
    Fit.COMFORTABLE: Word("pass", Fit.COMFORTABLE.label, "✅", "It fits with room to spare."),
    Fit.TIGHT: Word("warn", Fit.TIGHT.label, "⚠️", "It fits, and little else does."),
    Fit.NO: Word("fail", Fit.NO.label, "❌", "It needs more than there is."),
    Fit.UNKNOWN: Word("unknown", "unknown", "❔", "Not known."),
}

#: Words for answers of the checklist.
ANSWER: dict[str, Word] = {
    "yes": STATUS[Status.PASS],
    "no": STATUS[Status.FAIL],
    "unknown": STATUS[Status.UNKNOWN],
}


def evidence_word(evidence: Evidence | None) -> Word:
    """Return the word for an evidence level; `NO_EVIDENCE` for None."""
    return NO_EVIDENCE if evidence is None else EVIDENCE[evidence]


def phase_numbers(phases: Sequence[Phase]) -> str:
    """Format numbered phases briefly: `phase 2`, `phases 1 to 3 and 5`.

    Args:
        phases: At least one of the six phases, in order.
    """
    runs: list[list[int]] = []
    for number in (phase.order for phase in phases):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [
        word
        for run in runs
        for word in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run])
    ]
    return f"phase{'' if len(phases) == 1 else 's'} {enumerate_words(words)}"


@dataclass(frozen=True)
class Value:
    """A measured value as text.

    Attributes:
        text: The value for readers, with its unit.
        exact: The value as it was recorded, when `text` rounds or scales it; else empty.
    """

    text: str
    exact: str = ""


def value(measurement: Measurement) -> Value:
    """Format the value of a measurement with its unit, or as `not available`, `yes` or `no`."""
    number, unit = measurement.value, measurement.unit
    if number is None:
        return Value(f"not available: {unit}" if unit else "not available")
    if isinstance(number, bool):
        return Value("yes" if number else "no")
    if isinstance(number, str):
        return Value(f"{number} {unit}".rstrip())
    if not math.isfinite(number):
        return Value(f"{number} {unit}".rstrip())
    if unit == "s":
        return Value(seconds(number), _exact(number, "s", seconds(number)))
    if unit in ("bytes", "B"):
        return Value(decimal_size(number), _exact(number, "bytes", decimal_size(number)))
    if unit in ("bytes/s", "B/s"):
        return Value(f"{decimal_size(number)}/s", _exact(number, "bytes/s", f"{decimal_size(number)}/s"))
    if unit.startswith("FLOP"):
        text = scaled_flops(number, unit)
        return Value(text, _exact(number, unit, text))
    text = f"{plain(number)} {unit}".rstrip()
    return Value(text, _exact(number, unit, text))


def _exact(number: float, unit: str, text: str) -> str:
    """Return a number with all its digits; empty when `text` shows them already."""
    full = f"{number:,} {unit}".rstrip() if isinstance(number, int) else f"{number!r} {unit}".rstrip()
    return "" if full == text else full


def epoch_time(epoch: Epoch) -> str:
    """Format the time of an epoch: `"1 h 22 min (57 min - 3 h 33 min)"`."""
    took = epoch.seconds
    if took.expected is None:
        return f"at least {seconds(took.floor)}"
    if took.low is None or took.high is None:
        return seconds(took.expected)
    return f"{seconds(took.expected)} ({seconds(took.low)} - {seconds(took.high)})"


def open_checks(checks: list[Check]) -> str:
    """Return the ids of the unknown checks, at most three of them."""
    ids = [check.id for check in checks if check.status is Status.UNKNOWN]
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


#: Below this share of the op time, ops of unmeasured kinds are not named.
_WORTH_NAMING = 0.05


def unmeasured(time: Timing) -> str:
    """Return a sentence that names ops whose speed on MPS nobody has measured; empty where they take little time.

    Of a run that works on the CPU in between it says that instead.
    """
    if time.detour:
        return (
            "Its code copies large tensors to the CPU and back: the work there is not seen and comes on top, so no "
            "range is stated."
        )
    if sum(time.unmeasured.values()) < _WORTH_NAMING:
        return ""
    named = [f"{kind} ({share:.0%})" for kind, share in time.unmeasured.items() if share >= 0.005]
    return f"Nobody has measured the speed of some of its ops on MPS, so the range is wider: {enumerate_words(named)}."
