"""What the virtual device refuses while a link is made: all of it, where the run goes on as if mended."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.phases.check import Result
from mpsprobe.run import Phase, Status
from mpsprobe.trace.source import short_path


@dataclass(frozen=True)
class Refusal:
    """One way in which the Mac refuses one line.

    Attributes:
        phase: whose link was being made.
        kind, op, message: as in the virtual device's `Finding`.
        grade: how sure it is: `certain`, `likely` or `assumed`.
        source: `file:line`; `""` when no line of the target's led there.
        count: how often.
    """

    phase: Phase
    kind: str
    op: str
    message: str
    grade: str
    source: str
    count: int = 1

    @property
    def gist(self) -> str:
        """The first sentence of the message: what follows it is the same for every op."""
        first = self.message.strip().splitlines()[0]
        sentence, end, _ = first.partition(". ")
        return sentence + end.rstrip()

    def __str__(self) -> str:
        return f"{self.gist}{f' (at {self.source})' if self.source else ''}"


def collected(device: Device) -> AbstractContextManager[list[Finding]]:
    """What `device` refuses while the block runs; nothing on a device that can only raise."""
    return device.refusals() if isinstance(device, Emulated) else nullcontext([])


def keeps_going(device: Device) -> bool:
    """Whether a refusal ends nothing on `device`."""
    return isinstance(device, Emulated) and device.keep_going


def distinct(phase: Phase, findings: Iterable[Finding]) -> list[Refusal]:
    """Each refusal of a phase once, in order of appearance."""
    counted = Counter(
        Refusal(phase, one.kind, one.op, one.message, one.grade.value, _short(one.source)) for one in findings
    )
    return [dataclasses.replace(one, count=count) for one, count in counted.items()]


def unless_refused(phase: Phase, result: Result, device: Device, findings: list[Finding]) -> Result:
    """A link's result, which fails where the link could be made only by going on past refusals."""
    refused = distinct(phase, findings)
    if not refused or not keeps_going(device):  # not kept going: the target's own code caught them
        return result
    more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
    result.status = Status.FAIL
    result.message = f"Refused: {refused[0]}{more}. The run went on as if mended. {result.message}".strip()
    result.remedy = "inference.refusals lists all of them, each with what helps."
    return result


def _short(source: str) -> str:
    path, colon, line = source.rpartition(":")
    return f"{short_path(path)}:{line}" if colon else source
