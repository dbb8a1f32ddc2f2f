"""The one JSON document that an invocation writes, with the part of a prediction, its exit code and its JSON Schema."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.run.outlook import Outlook
from mpsprobe.run.records import (
    Check,
    DeviceChoice,
    Host,
    Interruption,
    LoggedFallback,
    Mac,
    OpUse,
    Refusal,
    Target,
)
from mpsprobe.run.words import OpVerdict, Phase, Status


class AssumedValue(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A value that the prediction assumed, because nothing computed it.

    Attributes:
        value: The assumption, in a few words.
        op: The op whose result it is.
        source: The place of the call as `file:line`.
        count: The number of times that it was assumed.
        dependents: `op at file:line` for each branch or size that the value decided.
    """

    value: str
    op: str
    source: str
    count: int
    dependents: list[str]


class HostWait(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A line where the host waits for the device, or where data is copied between the two.

    Attributes:
        kind: `"item"`, `"copy"`, `"data-dependent"`, `"fallback"` or `"synchronize"` for a wait; `"to-device"` or
            `"to-host"` for the data of a copy, whose wait is counted apart.
        module: The path of the innermost module.
        source: The place of the call as `file:line`.
        count: The number of times that it happens.
        bytes: The number of bytes that are copied.
    """

    kind: str
    module: str
    source: str
    count: int
    bytes: int

    @property
    def waits(self) -> bool:
        """Return whether the host waits at this line; False for the data of a copy."""
        return self.kind not in ("to-device", "to-host")


class Quantisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint is quantised, and what loading it does on a Mac.

    Attributes:
        method: The name of the method, with its bits.
        outcome: `raises`, `packed`, `dequantises`, `ignored` (nothing raises, and the weights are wrong) or
            `unknown`.
        error: The error that loading raises; empty when it does not raise.
        fix: The fix; empty when none is known.
        checkpoint_bytes: The size of the weights in bytes at the bits of the checkpoint.
        sentences: Sentences that state what loading does, and which packages it needs.
        routes: Ways to compute with such bits natively on a Mac.
        mlx_loads: Whether mlx-lm loads the checkpoint as it is, as far as its config shows.
        packed: Whether its weights stay packed once it loads, so that the ops which compute with them are not
            among the op uses and are not predicted.
    """

    method: str
    outcome: str
    error: str
    fix: str
    checkpoint_bytes: int
    sentences: list[str]
    routes: list[str]
    mlx_loads: bool = False
    packed: bool = False


class ReleaseSummary(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The prediction for one torch release.

    Attributes:
        torch: The minor release, such as `"2.9"`.
        op_uses: The number of distinct op uses by verdict.
        calls: The number of calls by verdict.
        findings: The number of refusals by kind.
        not_native: The ops by verdict, without those that are `native` or `composite`.
        fully_native: Whether no op falls back, raises, is wrong or is unknown.
        stopped: The reason why the model's code ended early or nothing was run; empty when it ran to its end.
    """

    torch: str
    op_uses: dict[str, int]
    calls: dict[str, int]
    findings: dict[str, int]
    not_native: dict[str, list[str]]
    fully_native: bool
    stopped: str = ""


class Hazard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A known fault that a target meets, may meet, or would meet in a larger workload.

    Attributes:
        advisory: The id of the advisory.
        title: What goes wrong.
        severity: `critical`, `high`, `medium` or `low`.
        symptom: `wrong`, `nan`, `abort`, `hang`, `leak`, `raises` or `slow`.
        certainty: `certain` only when every condition was seen to hold.
        reached: Whether the model's maximum length meets it although this workload does not.
        why: The reason why it is not certain; empty when it is.
        from_tokens: The smallest number of tokens that meets it; None where the number of tokens does not decide.
        fix: The fix or workaround.
        calls: The number of calls concerned.
        op: The op of the first of these calls.
        source: The place of the first of these calls as `file:line`.
        listed: Whether a short list includes it. The others need unusual circumstances or do little harm.
    """

    advisory: str
    title: str
    severity: str
    symptom: str
    certainty: str
    reached: bool = False
    why: str = ""
    from_tokens: int | None = None
    fix: str = ""
    calls: int = 0
    op: str = ""
    source: str = ""
    listed: bool = True

    @property
    def is_met(self) -> bool:
        """Check whether this workload, or the longest one that the model takes, meets it for certain."""
        return self.certainty == "certain" or self.reached


class SourceFinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one rule of the scan finds in the source of a target's package.

    Attributes:
        code: The code of the rule, such as `MPS501`.
        title: What the rule looks for.
        level: `error` or `warning`.
        places: The places as `file:line`, with paths inside the package.
        why: What happens on a Mac.
        fix: The fix.
        ran: Whether the recorded inference called ops in the functions of these places.
    """

    code: str
    title: str
    level: str
    places: list[str]
    why: str
    fix: str = ""
    ran: bool = False

    @property
    def sentence(self) -> str:
        """Return the finding in words, with at most twelve places."""
        shown = ", ".join(self.places[:12])
        more = f" and {len(self.places) - 12} more" if len(self.places) > 12 else ""
        return f"In its source, {shown}{more}: {self.title} ({self.code}). {self.why}"


class Predicted(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The part of a run that only a prediction has.

    Attributes:
        doing: What was run, such as `"generate, 8 new tokens"`.
        inputs: The input that was made up, one line each.
        notes: The decisions that were made for the user.
        dtypes: The number of parameters by dtype.
        quantisation: How the checkpoint is quantised; None when it is not. The op uses are those of plain
            weights.
        refusals: Everything that the target Mac refuses, with PyTorch's messages.
        hazards: Known faults that the op uses meet, may meet, or would meet in a larger workload; the worst
            first.
        host_waits: The lines where the host waits for the device.
        assumptions: The values that were assumed.
        unknowns: Sentences that state what the prediction cannot show.
        stopped: The reason why the model's code ended early; empty when it did not.
        next_step: The advice for a stop that the made-up input may have caused; empty without one.
        releases: The prediction for each torch release, oldest first; empty when only one release was requested.
        first_fully_native: The earliest release that is fully native together with every later one; None when
            there is none.
        source: What the scan finds in the source of the target's package; empty where it has no package of its own.
        kept_since: The time at which it was made, when it was taken from the cache of predictions; empty otherwise.
    """

    doing: str
    inputs: list[str]
    notes: list[str]
    dtypes: dict[str, int]
    quantisation: Quantisation | None = None
    refusals: list[Refusal] = []
    hazards: list[Hazard] = []
    host_waits: list[HostWait] = []
    assumptions: list[AssumedValue] = []
    unknowns: list[str] = []
    stopped: str = ""
    next_step: str = ""
    releases: list[ReleaseSummary] = []
    first_fully_native: str | None = None
    source: list[SourceFinding] = []
    kept_since: str = ""


#: Version of the document's schema. It is raised when a reader of the old schema would misread the new one.
SCHEMA_VERSION = 1


class Run(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything that one invocation found out about a target.

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

        Weights that stay packed take ops that are not predicted, so the answer is no for them. For a prediction over
        several torch releases, only the newest release decides.
        """
        made = self.predicted
        if made is None:
            return False
        if made.releases:
            return made.releases[-1].fully_native
        native = all(use.verdict in (OpVerdict.NATIVE, OpVerdict.COMPOSITE) for use in self.op_uses)
        native = native and (made.quantisation is None or not made.quantisation.packed)
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
