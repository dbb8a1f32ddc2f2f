"""Collect the ops that the emulated device refuses while a link is made, and judge a link made past refusals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.errors import MpsprobeError, text_of
from mpsprobe.phases.check import LinkFailed, Result
from mpsprobe.run import Phase, Refusal, Status
from mpsprobe.trace.source import line_of, short_source

#: Kinds of errors that end a run: PyTorch's messages about operands of two dtypes, and all others.
MIXED, ERROR = "mixed-dtypes", "error"
#: Names that PyTorch's messages give to the dtypes of autocast: `BFloat16`, `c10::Half`, `MPSFloatType`, `HalfTensor`.
_NAMED = re.compile(
    r"(?<![a-z])(?:mps|cpu|cuda)?(bfloat16|half|float16|float32|float)(?:type|tensor)?(?![a-z0-9])", re.I
)
_SAME = {"half": "float16", "float": "float32"}


def collected(device: Device) -> AbstractContextManager[list[Finding]]:
    """Collect the ops that an emulated `device` refuses while the block runs; the list stays empty on other devices."""
    return device.refusals() if isinstance(device, Emulated) else nullcontext([])


def keeps_going(device: Device) -> bool:
    """Return whether `device` is emulated and continues past a refusal (`--keep-going`)."""
    return isinstance(device, Emulated) and device.keep_going


def distinct(phase: Phase, findings: Iterable[Finding]) -> list[Refusal]:
    """Return each distinct refusal of a phase once, in order of appearance, with its number of occurrences."""
    counted = Counter(
        Refusal(phase, one.kind, one.op, one.message, one.grade.value, short_source(one.source))
        for one in findings
    )
    return [msgspec.structs.replace(one, count=count) for one, count in counted.items()]


def unless_refused(phase: Phase, result: Result, device: Device, findings: list[Finding]) -> Result:
    """Return the result of a link, changed to a failure if the link was made only by continuing past refusals."""
    refused = distinct(phase, findings)
    if not refused or not keeps_going(device):  # without --keep-going the target's own code caught them
        return result
    more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    result.status = Status.FAIL
    result.message = (
        f"Refused: {refused[0]}{more}. The run went on as if it were fixed. {result.message}".strip()
    )
    result.remedy = "inference.refusals lists all of them, each with what helps."
    return result


def ending(failure: LinkFailed) -> Refusal | None:
    """Return the target's own error that ended a phase, in the form of a refusal; None for any other failure.

    A failure without a cause, or with an error of mpsprobe as its cause, is not the target's own.
    """
    problem = failure.__cause__
    if problem is None or isinstance(problem, MpsprobeError):
        return None
    text = text_of(problem).strip() or type(problem).__name__
    source = line_of(problem.__traceback__)
    # PyTorch compares dtypes before it calls the device's kernel. MPS's own linear does not, and may do worse than
    # raise.
    kind, grade = (MIXED, "likely") if mixes_dtypes(text) else (ERROR, "certain")
    return Refusal(failure.phase, kind, "", text, grade, source)


def mixes_dtypes(text: str) -> bool:
    """Return whether the text of an error is about operands of two floating dtypes, which autocast would unify."""
    named = {_SAME.get(name, name) for name in map(str.lower, _NAMED.findall(text))}
    return ("type" in text and len(named) > 1) or "mixed dtype" in text
