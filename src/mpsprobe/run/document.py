"""The one JSON document that an invocation leaves behind."""

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
from mpsprobe.run.records import Check, DeviceChoice, Host, Interruption, Mac, OpUse, Target
from mpsprobe.run.words import OpVerdict, Phase, Status

#: Version of the document's schema. It grows when a reader of the old one would misread the new one.
SCHEMA_VERSION = 1


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything one invocation learnt.

    Attributes:
        schema: form of this document, see `SCHEMA_VERSION`.
        mpsprobe: version of the tool that wrote it.
        id: sortable, unique: `20261122T131500Z-4f2a`.
        started, ended: UTC, ISO 8601; `ended` is empty for a run that was cut off.
        command: the command line.
        target, host, device: of what, where, on which device.
        mac: whose rules and tables were asked; None until phase 1 found out.
        limits: what this run's evidence cannot say, one sentence each.
        checks: in the order in which they ended.
        op_uses: distinct op uses seen or predicted.
        predicted: what only a prediction has; None for a run that took place.
        outlook: forecast, routes and recommendation; None when they were not asked for or had no ground.
        interruption: set when the run was cut off.
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

    @property
    def fully_native(self) -> bool:
        """Whether a prediction says that every op runs on the GPU and nothing but memory is refused.

        Of a prediction over torch releases: whether it says so of the newest; the older ones are information.
        """
        made = self.predicted
        if made is None:
            return False
        if made.releases:
            return made.releases[-1].fully_native
        native = all(use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE) for use in self.op_uses)
        return native and not made.stopped and all(one.kind == "memory" for one in made.refusals)

    def of_phase(self, phase: Phase) -> list[Check]:
        """Return the checks of one phase, in order."""
        return [check for check in self.checks if check.phase is phase]

    def save(self, path: Path) -> None:
        """Write the document to `path` (UTF-8 JSON, indented)."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a document.

        Raises:
            DataError: it is missing, not JSON, of another schema, or inconsistent.
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
    """Return what a document says that no run can have; the types cannot say it."""
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


#: Exit codes of `mpsprobe run`, worst first: the first status present in a run decides.
EXIT_CODES: dict[Status, int] = {
    Status.CRASHED: 5,
    Status.TIMEOUT: 5,
    Status.ERROR: 4,
    Status.FAIL: 1,
    Status.BLOCKED: 3,
}


def worst(statuses: Iterable[Status]) -> Status:
    """Return the status that decides for a group of checks; `unknown` for an empty group.

    A group that holds passes beside skipped or unknown checks is a pass of what was checked; a warning
    outranks a pass.
    """
    present = set(statuses)
    for status in (*EXIT_CODES, Status.WARN, Status.PASS, Status.UNKNOWN, Status.SKIPPED):
        if status in present:
            return status
    return Status.UNKNOWN


def exit_code(run: Run) -> int:
    """0 pass, 1 fail, 3 blocked, 4 harness error, 5 crashed or timed out (2, usage, never gets this far)."""
    if run.interruption is not None:
        return EXIT_CODES[Status.CRASHED]
    return EXIT_CODES.get(worst(check.status for check in run.checks), 0)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `run.json`, made from the types above.

    Descriptions are indented as `inspect.cleandoc` leaves them, so that the schema is the same text under every
    Python (3.13 strips docstrings) and msgspec from 0.22 on (0.23 strips them too).
    """
    schema = msgspec.json.schema(Run)
    for definition in schema["$defs"].values():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mpsprobe run"
    return schema
