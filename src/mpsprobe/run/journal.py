"""The append-only journal of a run: one JSON line an event, written as it happens, so that a crash loses none.

A journal outlives the process that writes it. `replay` folds it into a `Run`, however the process ended: every
planned check gets an answer, and a run that lacks some of its answers says so.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.run.document import SCHEMA_VERSION, Run
from mpsprobe.run.outlook import Outlook
from mpsprobe.run.own_file import OwnFile
from mpsprobe.run.records import Check, DeviceChoice, Host, Interruption, Mac, OpUse, Target
from mpsprobe.run.words import Phase, Status


class Planned(msgspec.Struct, frozen=True):
    """A check that the run is going to make."""

    id: str
    phase: Phase
    title: str


class _OfRun(msgspec.Struct, kw_only=True):
    """The field that every event has: the id of its run, which `Journal.write` fills in."""

    run_id: str = ""


class RunStarted(_OfRun, tag="run"):
    """The first event: the document as far as it is known before any check."""

    run: Run


class Plan(_OfRun, tag="plan"):
    """The list of all checks that will be made, in order, so that a run that dies can say which it did not reach."""

    checks: list[Planned]


class CheckStarted(_OfRun, tag="start"):
    """The start of a check, which may take `limit_s` seconds of wall time."""

    id: str
    limit_s: float


class CheckEnded(_OfRun, tag="check"):
    """The end of a check, with its status and everything it found."""

    check: Check


class Progress(_OfRun, tag="progress"):
    """A line about the progress of a long step, for a person who waits."""

    text: str


class FileTransfer(msgspec.Struct, frozen=True):
    """How many bytes of one file of a download have arrived.

    Attributes:
        name: The path of the file in its repository.
        done: The number of bytes that have arrived.
        total: The size of the file in bytes.
        stage: `"fetching"`, `"checking"` or `"done"`.
    """

    name: str
    done: int
    total: int
    stage: str


class Transfer(_OfRun, tag="transfer"):
    """How many bytes of a download have arrived.

    Attributes:
        done: The number of bytes of all files that have arrived.
        total: The size of all files in bytes.
        rate: The throughput in bytes per second.
        left_s: The remaining time in seconds at that throughput; None before anything was measured.
        files: The large files whose transfer has begun.
    """

    done: int
    total: int
    rate: float
    left_s: float | None
    files: list[FileTransfer]


class RunFacts(_OfRun, tag="learnt"):
    """Facts about the run that became known while it ran; None leaves a field as it is."""

    host: Host | None = None
    target: Target | None = None
    device: DeviceChoice | None = None
    mac: Mac | None = None
    limits: list[str] | None = None
    op_uses: list[OpUse] | None = None
    outlook: Outlook | None = None


class RunEnded(_OfRun, tag="end"):
    """The last event of a run that was not cut off."""

    time: str


Event = RunStarted | Plan | CheckStarted | CheckEnded | Progress | Transfer | RunFacts | RunEnded

_decoder = msgspec.json.Decoder(Event)
_encoder = msgspec.json.Encoder()


def utc_now() -> str:
    """Return the current time in UTC as documents hold it: ISO 8601, in whole seconds."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run_id(now: str) -> str:
    """Return a unique id that sorts by time, such as `20261122T131500Z-4f2a`."""
    return f"{now.replace('-', '').replace(':', '')}-{uuid.uuid4().hex[:4]}"


class Journal:
    """Append the events of a run to a file, one JSON line each.

    Each event is one `write` to a descriptor opened for appending. An event that `write` has accepted is in the
    kernel's hands: it survives the death of this process, but not that of the machine. The target runs in the same
    process and may close descriptors or fork; `OwnFile` handles both.

    Attributes:
        path: The path of the file.
        run_id: The id of the run, which is written into each event.
    """

    def __init__(self, path: Path, run_id: str = "") -> None:
        self.path = path
        self.run_id = run_id
        self._file = OwnFile(path)

    def write(self, event: Event) -> None:
        """Append one event. A full disk loses the event: the supervisor then finds no answer and reports that."""
        if event.run_id != self.run_id:
            event = msgspec.structs.replace(event, run_id=self.run_id)
        with contextlib.suppress(OSError):
            self._file.write(_encoder.encode(event) + b"\n")

    def close(self) -> None:
        """Close the journal's file; later events are not written."""
        self._file.close()


@dataclass
class Reading:
    """The run as far as its journal has been read.

    When two runs wrote into one file, the events of the second are ignored.

    Attributes:
        run: The document; None before its first line was read.
        plan: The planned checks; None before the plan was read.
        in_flight: The check that has begun and not ended; None between checks.
        strays: The number of lines that are no event or belong to another run.
        twice: The ids of checks that were answered more than once.
    """

    run: Run | None = None
    plan: list[Planned] | None = None
    in_flight: CheckStarted | None = None
    strays: int = 0
    twice: list[str] = field(default_factory=list)

    def take(self, event: Event) -> bool:
        """Add one event, and return whether it belongs to this run."""
        if isinstance(event, RunStarted):
            if self.run is not None:
                self.strays += 1
                return False
            self.run = event.run
            return True
        if self.run is None or event.run_id not in ("", self.run.id):
            self.strays += 1
            return False
        if isinstance(event, Plan):
            self.plan = event.checks
        elif isinstance(event, CheckStarted):
            self.in_flight = event
        elif isinstance(event, CheckEnded):
            self._answer(event.check)
        elif isinstance(event, RunFacts):
            self.run.host = event.host or self.run.host
            self.run.target = event.target or self.run.target
            self.run.device = event.device or self.run.device
            self.run.mac = event.mac or self.run.mac
            self.run.limits = event.limits if event.limits is not None else self.run.limits
            self.run.op_uses = event.op_uses if event.op_uses is not None else self.run.op_uses
            self.run.outlook = event.outlook or self.run.outlook
        elif isinstance(event, RunEnded):
            self.run.ended = event.time
        return True

    def take_line(self, line: bytes) -> Event | None:
        """Add the event of one line and return it; None for a line that is no event of this run."""
        if not line.strip():
            return None
        try:
            event = decode(line)
        except DataError:
            self.strays += 1
            return None
        return event if self.take(event) else None

    def _answer(self, check: Check) -> None:
        assert self.run is not None
        if self.in_flight is not None and self.in_flight.id == check.id:
            self.in_flight = None
        for index, other in enumerate(self.run.checks):
            if other.id == check.id:
                self.twice.append(check.id)
                self.run.checks[index] = _answered_twice(other, check)
                return
        self.run.checks.append(check)

    @property
    def missing(self) -> list[Planned]:
        """Return the planned checks that have not ended, in the order of the plan."""
        done = {check.id for check in self.run.checks} if self.run is not None else set()
        return [planned for planned in self.plan or [] if planned.id not in done]

    @property
    def whole(self) -> bool:
        """Return whether the run ended by itself and every planned check has a result."""
        return self.run is not None and bool(self.run.ended) and self.plan is not None and not self.missing


def _answered_twice(first: Check, second: Check) -> Check:
    return msgspec.structs.replace(
        first,
        status=Status.ERROR,
        message=f"Answered twice: {first.status.value}, then {second.status.value}. Neither can be relied on.",
        remedy="",
    )


def decode(line: bytes) -> Event:
    """Return the event that one line of a journal holds.

    Raises:
        DataError: The line is not an event, such as a last line that was cut off.
    """
    try:
        event: Event = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise DataError(f"not an event: {problem}") from problem
    return event


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a journal.

    Raises:
        DataError: The file cannot be read, or is not a regular file.
    """
    yield from toml.read_bytes(path, DataError, toml.DOCUMENT_BYTES).split(b"\n")


def id_of(path: Path) -> str:
    """Return the id of the run that a journal belongs to; `""` for a file that holds no run."""
    reading = Reading()
    with contextlib.suppress(DataError):
        for line in lines_of(path):
            reading.take_line(line)
            if reading.run is not None:
                return reading.run.id
    return ""


def replay(path: Path, interruption: Interruption | None = None) -> Run:
    """Return the run that a journal holds, with an answer for every planned check.

    A run that lacks answers was cut off. Its check in flight becomes `crashed` (or `timeout`, or `unknown` when the
    user interrupted the run). After a crash or a timeout the checks of later phases become `blocked`; all other
    missing checks become `unknown`. Lines that are no event are skipped, and the run's limits state how many there
    were.

    Args:
        path: The path of the journal.
        interruption: How the run was cut off, when its supervisor knows.

    Raises:
        DataError: The journal cannot be read, holds no run, or holds one of another schema version.
    """
    reading = Reading()
    for line in lines_of(path):
        reading.take_line(line)
    run = reading.run
    if run is None:
        raise DataError(f"{path}: holds no run.")
    if not 1 <= run.schema <= SCHEMA_VERSION:
        raise DataError(
            f"{path}: written in schema {run.schema}, this mpsprobe reads 1 to {SCHEMA_VERSION}.",
            "Upgrade mpsprobe.",
        )
    if reading.strays:
        torn = reading.strays == 1 and not run.ended
        if not torn:  # a process that died while it wrote leaves a torn last line
            run.limits = [*run.limits, f"{reading.strays} lines of the journal are no events of this run."]
    if interruption is None and not reading.whole:
        interruption = Interruption(cause="crashed", signal="", check="", output="")
    if interruption is not None:
        _cut_off(reading, run, interruption)
    return run


def _cut_off(reading: Reading, run: Run, interruption: Interruption) -> None:
    """Give every planned check a status, and record the interruption in the run."""
    started = reading.in_flight
    missing = reading.missing
    flying = next((plan for plan in missing if started is not None and plan.id == started.id), None)
    run.interruption = msgspec.structs.replace(interruption, check=flying.id if flying else "")
    verb = {"crashed": "crashed", "timeout": "was stopped at a limit"}.get(
        interruption.cause, "was interrupted"
    )
    if interruption.cause == "crashed" and run.ended and not interruption.signal:
        verb = "ended before all its checks were made"
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
    for plan in missing:
        if flying is not None and plan.id == flying.id:
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
