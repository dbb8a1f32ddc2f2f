"""The append-only journal of a run: one JSON line an event, written as it happens, so a crash loses none.

A journal outlives the process that writes it. `replay` makes a `Run` of it, whatever the end was.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from mpsprobe.errors import DataError
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Host,
    Interruption,
    Mac,
    OpUse,
    Outlook,
    Phase,
    Run,
    Status,
    Target,
)


class Planned(msgspec.Struct, frozen=True):
    """A check that the run intends to make."""

    id: str
    phase: Phase
    title: str


class RunStarted(msgspec.Struct, tag="run"):
    """The first line: the document as far as it is known before any check."""

    run: Run


class Plan(msgspec.Struct, tag="plan"):
    """What will be checked, in order: a run that dies can say what it did not get to."""

    checks: list[Planned]


class CheckStarted(msgspec.Struct, tag="start"):
    """A check begins; it may take `limit_s` seconds of wall time."""

    id: str
    limit_s: float


class CheckEnded(msgspec.Struct, tag="check"):
    """A check has its status."""

    check: Check


class Progress(msgspec.Struct, tag="progress"):
    """How far a long step is, for people who wait."""

    text: str


class Learnt(msgspec.Struct, tag="learnt"):
    """Facts of the run that became known on the way; None leaves what is there."""

    host: Host | None = None
    target: Target | None = None
    device: DeviceChoice | None = None
    mac: Mac | None = None
    limits: list[str] | None = None
    op_uses: list[OpUse] | None = None
    outlook: Outlook | None = None


class RunEnded(msgspec.Struct, tag="end"):
    """The last line of a run that was not cut off."""

    time: str


Event = RunStarted | Plan | CheckStarted | CheckEnded | Progress | Learnt | RunEnded

_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def utc_now() -> str:
    """The time as the documents write it: UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id(now: str) -> str:
    """Sortable and unique: `20261122T131500Z-4f2a`."""
    return f"{now.replace('-', '').replace(':', '')}-{uuid.uuid4().hex[:4]}"


class Journal:
    """Appends events to a file.

    Each event is one `write` on a descriptor opened for appending: what has returned is in the kernel's
    hands and survives the death of this process (not that of the machine).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, event: Event) -> None:
        """Append one event."""
        os.write(self._fd, _encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Close the file; further writes are errors."""
        os.close(self._fd)


@dataclass
class Reading:
    """A journal as read so far.

    Attributes:
        run: the document; None before its first line was read.
        plan: what was to be checked.
        in_flight: the check that has begun and not ended.
    """

    run: Run | None = None
    plan: list[Planned] | None = None
    in_flight: CheckStarted | None = None

    def take(self, event: Event) -> None:
        """Fold one event in."""
        if isinstance(event, RunStarted):
            self.run = event.run
            return
        if self.run is None:
            raise DataError("a journal must begin with its run.")
        if isinstance(event, Plan):
            self.plan = event.checks
        elif isinstance(event, CheckStarted):
            self.in_flight = event
        elif isinstance(event, CheckEnded):
            self.in_flight = None
            self.run.checks.append(event.check)
        elif isinstance(event, Learnt):
            self.run.host = event.host or self.run.host
            self.run.target = event.target or self.run.target
            self.run.device = event.device or self.run.device
            self.run.mac = event.mac or self.run.mac
            self.run.limits = event.limits if event.limits is not None else self.run.limits
            self.run.op_uses = event.op_uses if event.op_uses is not None else self.run.op_uses
            self.run.outlook = event.outlook or self.run.outlook
        elif isinstance(event, RunEnded):
            self.run.ended = event.time


def decode(line: bytes) -> Event:
    """One line of a journal.

    Raises:
        msgspec.DecodeError: not an event (a torn last line, for one).
    """
    event: Event = _decoder.decode(line)
    return event


def replay(path: Path, interruption: Interruption | None = None) -> Run:
    """The run that a journal tells of.

    Args:
        path: the journal.
        interruption: how the run was cut off, when its supervisor knows.

    A run without an end was cut off: its check in flight is `crashed` (or `timeout`, or `unknown` when its user
    interrupted it), checks of later phases are `blocked` by a crash or a timeout, and all others that were not
    made are `unknown`.

    Raises:
        DataError: it cannot be read, or a line other than the last is not an event.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as problem:
        raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
    reading = Reading()
    for number, line in enumerate(lines, start=1):
        try:
            reading.take(decode(line))
        except msgspec.DecodeError as problem:
            if number == len(lines):  # the process died while it wrote this line
                break
            raise DataError(f"{path}: line {number} is not an event: {problem}.") from problem
    if reading.run is None:
        raise DataError(f"{path}: holds no run.")
    if interruption is None and not reading.run.ended:
        interruption = Interruption(cause="crashed", signal="", check="", output="")
    if interruption is not None:
        _cut_off(reading, reading.run, interruption)
    return reading.run


def _cut_off(reading: Reading, run: Run, interruption: Interruption) -> None:
    """Give every planned check a status, and the run its interruption."""
    started = reading.in_flight
    planned = reading.plan or []
    flying = next((plan for plan in planned if started is not None and plan.id == started.id), None)
    run.interruption = msgspec.structs.replace(interruption, check=flying.id if flying else "")
    verb = {"crashed": "crashed", "timeout": "was stopped at a limit"}.get(
        interruption.cause, "was interrupted"
    )
    how = f"{verb}{f' by {interruption.signal}' if interruption.signal else ''}"
    status, message = {
        "timeout": (
            Status.TIMEOUT,
            f"Took longer than its limit of {started.limit_s if started else 0:g} s.",
        ),
        "interrupted": (Status.UNKNOWN, f"The run {how} while this check was in flight."),
    }.get(interruption.cause, (Status.CRASHED, f"The run {how} while this check was in flight."))
    if flying is not None:
        run.checks.append(
            Check(
                id=flying.id,
                phase=flying.phase,
                title=flying.title,
                status=status,
                message=message,
                output=interruption.output,
            )
        )
    done = {check.id for check in run.checks}
    for plan in planned:
        if plan.id in done:
            continue
        blocker = flying.phase if flying and status is not Status.UNKNOWN else None
        blocked = blocker is not None and plan.phase.order > blocker.order
        run.checks.append(
            Check(
                id=plan.id,
                phase=plan.phase,
                title=plan.title,
                status=Status.BLOCKED if blocked else Status.UNKNOWN,
                blocked_by=blocker if blocked else None,
                message=f"blocked by {blocker.label}: the run {how} there."
                if blocked and blocker
                else f"Not checked: the run {how} before.",
            )
        )
