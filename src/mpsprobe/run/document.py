"""The one JSON document that an invocation writes, with its exit code and its JSON Schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.run.outlook import Outlook
from mpsprobe.run.predicted import Predicted
from mpsprobe.run.records import Check, DeviceChoice, Host, Interruption, LoggedFallback, Mac, OpUse, Target
from mpsprobe.run.words import OpVerdict, Phase, Status

#: Version of the document's schema. It is raised when a reader of the old schema would misread the new one.
SCHEMA_VERSION = 1


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything that one invocation learnt.

    Attributes:
        schema: The version of this document's schema; see `SCHEMA_VERSION`.
        mpsprobe: The version of mpsprobe that wrote the document.
        id: A unique id that sorts by time, such as `20261122T131500Z-4f2a`.
        started: When the run started, in UTC (ISO 8601).
        ended: When the run ended, in UTC (ISO 8601); empty for a run that was cut off.
        command: The command line, one argument an item.
        target: The model that was probed.
        host: The machine that the run took place on.
        device: The device that the run used, and why.
        mac: The target Mac, whose rules and tables decide; None until phase 1 has determined it.
        limits: Sentences that state what the evidence of this run cannot show.
        checks: The checks, in the order in which they ended.
        op_uses: The distinct op uses that were seen or predicted.
        predicted: The part that only a prediction has; None for a run that took place.
        outlook: The forecast, the routes and the recommendation; None when they were not requested or when nothing
            is known to base them on.
        interruption: How the run was cut off; None when it was not.
        logged_fallbacks: The ops that PyTorch logged as run by the CPU; empty unless
            PYTORCH_MPS_LOG_PROFILE_INFO asks for that log.
    """

    schema: int = SCHEMA_VERSION
    mpsprobe: str
    id: str
    started: str
    ended: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    target: Target
    host: Host
    device: DeviceChoice
    mac: Mac | None = None
    limits: list[str] = msgspec.field(default_factory=list)
    checks: list[Check] = msgspec.field(default_factory=list)
    op_uses: list[OpUse] = msgspec.field(default_factory=list)
    predicted: Predicted | None = None
    outlook: Outlook | None = None
    interruption: Interruption | None = None
    logged_fallbacks: list[LoggedFallback] = msgspec.field(default_factory=list)

    @property
    def fully_native(self) -> bool:
        """Check whether a prediction says that every op runs on the GPU and nothing but memory is refused.

        For a prediction over several torch releases, only the newest release decides.
        """
        made = self.predicted
        if made is None:
            return False
        if made.releases:
            return made.releases[-1].fully_native
        native = all(use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE) for use in self.op_uses)
        return native and not made.stopped and all(one.kind == "memory" for one in made.refusals)

    def of_phase(self, phase: Phase) -> list[Check]:
        """Return the checks of one phase, in the order in which they ended."""
        return [check for check in self.checks if check.phase is phase]

    def save(self, path: Path) -> None:
        """Write the document to `path` (UTF-8 JSON, indented)."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a run document.

        Raises:
            DataError: The file is missing, is not JSON, has another schema version, or contradicts itself.
        """
        data = toml.read_bytes(path, DataError, toml.DOCUMENT_BYTES)
        version = toml.decode_json(data, _Versioned, f"{path}: not a run document").schema
        if not 1 <= version <= SCHEMA_VERSION:
            raise DataError(
                f"{path}: written in schema {version}, this mpsprobe reads 1 to {SCHEMA_VERSION}.",
                "Upgrade mpsprobe." if version > SCHEMA_VERSION else "No mpsprobe wrote that.",
            )
        run = toml.decode_json(data, cls, f"{path}: not a run document")
        if (wrong := _inconsistency(run)) is not None:
            raise DataError(f"{path}: not a run document: {wrong}.")
        return run


def _inconsistency(run: Run) -> str | None:
    """Return the first contradiction in a document that its types cannot exclude; None when there is none."""
    seen: set[str] = set()
    for check in run.checks:
        if check.id in seen:
            return f"check {check.id!r} is there twice"
        seen.add(check.id)
        table = check.table
        if table is not None and any(len(row) != len(table.columns) for row in table.rows):
            return f"the table of check {check.id!r} has rows of another length than its header"
    return None


class _Versioned(msgspec.Struct):
    schema: int


#: Exit codes of `mpsprobe run`, worst first: the first status that is present in a run decides.
EXIT_CODES: dict[Status, int] = {
    Status.CRASHED: 5,
    Status.TIMEOUT: 5,
    Status.ERROR: 4,
    Status.FAIL: 1,
    Status.BLOCKED: 3,
}


def worst(statuses: Iterable[Status]) -> Status:
    """Return the status that decides for a group of checks; `unknown` for an empty group.

    A warning outranks a pass. A group of passed checks and skipped or unknown ones counts as a pass of what was
    checked.
    """
    present = set(statuses)
    for status in (*EXIT_CODES, Status.WARN, Status.PASS, Status.UNKNOWN, Status.SKIPPED):
        if status in present:
            return status
    return Status.UNKNOWN


def exit_code(run: Run) -> int:
    """Return the exit code of a run: 0 pass, 1 fail, 3 blocked, 4 harness error, 5 crashed or timed out.

    Exit code 2, a usage error, ends the command before there is a run.
    """
    if run.interruption is not None:
        return EXIT_CODES[Status.CRASHED]
    return EXIT_CODES.get(worst(check.status for check in run.checks), 0)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `run.json`, generated from the types above.

    Descriptions are indented as `inspect.cleandoc` leaves them, so that the schema is the same text under every
    Python (3.13 strips the indentation of docstrings) and every msgspec (which does so from 0.23 on).
    """
    schema = msgspec.json.schema(Run)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mpsprobe run"
    return schema
