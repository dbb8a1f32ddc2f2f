"""The words of a run (status, evidence, check, op use) and the one JSON document it leaves behind.

Every report is drawn from `Run` alone. The types below are also the source of `run.schema.json`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe.errors import DataError

#: What `--device` takes.
DEVICES = ("auto", "mps", "emulated", "cuda", "cpu")

#: Version of the document's form. It grows when a reader of the old form would misread the new one.
SCHEMA_VERSION = 1


class Phase(str, enum.Enum):
    """The ordered stages of the suite: six numbered phases, then the per-op checks and the benchmarks."""

    AVAILABILITY = "availability"
    PINS = "pins"
    DOWNLOAD = "download"
    TRANSFER = "transfer"
    DATA = "data"
    INFERENCE = "inference"
    OPS = "ops"
    BENCHMARK = "benchmark"

    @property
    def order(self) -> int:
        """1 for the first stage; phases one to six have the number that users know them by."""
        return list(Phase).index(self) + 1

    @property
    def marker(self) -> str:
        """The pytest marker: `phase1` ... `phase6`, `ops`, `benchmark`."""
        return f"phase{self.order}" if self.order <= 6 else self.value

    @property
    def label(self) -> str:
        """For people: `phase 3 (download)`, `ops`."""
        return f"phase {self.order} ({self.value})" if self.order <= 6 else self.value


class Status(str, enum.Enum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    BLOCKED = "blocked"  #: an earlier phase failed; `blocked_by` names it, the message says why
    SKIPPED = "skipped"  #: does not apply here, the message says why
    UNKNOWN = "unknown"  #: not checked, the message says what would be needed
    CRASHED = "crashed"  #: the process died under it
    TIMEOUT = "timeout"  #: past its limit
    ERROR = "error"  #: the harness itself failed: says nothing about the model


class Evidence(str, enum.Enum):
    """How we know, from weakest to strongest. Never let one pass for another."""

    PREDICTED = "predicted"  #: no weights, no device
    EMULATED = "emulated"  #: real values under MPS's rules, on another machine
    MEASURED = "measured"  #: on the named device itself


class OpVerdict(str, enum.Enum):
    """What happens to an op use on a Mac."""

    NATIVE = "native"
    COMPOSITE = "composite"
    FALLBACK = "fallback"
    RAISES = "raises"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number (or fact) with what it takes to read it.

    Attributes:
        name: what was measured, e.g. `"time per sample"`.
        value: the value; None when it could not be had (`unit` then says why it is absent).
        unit: `"s"`, `"bytes"`, `""` ...
        evidence: how it is known.
        device: where: `"mps"`, `"emulated"`, `"cuda"`, `"cpu"`, or `"host"` for facts of the machine.
    """

    name: str
    value: float | int | str | bool | None
    unit: str
    evidence: Evidence
    device: str


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that belong to a check, such as required / found / verdict of each pin."""

    columns: list[str]
    rows: list[list[str | int | float | bool | None]]


class Check(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One assertion with a status and its evidence.

    Attributes:
        id: unique in a run, e.g. `"transfer.dtypes"`, or `"ops.aten.mm-f32-2x3_3x4"`.
        phase: the stage it belongs to.
        title: what is asserted, as a sentence without a full stop.
        status: how it ended.
        evidence: how that is known; None when nothing was learnt (blocked, skipped, unknown).
        device: where that was learnt (see `Measurement.device`).
        message: one line: what was found; for a failure what, where.
        remedy: what to do about it, a command where possible.
        measurements: the numbers behind it.
        table: rows behind it.
        output: last lines of output that explain it (stderr of a crash, a traceback).
        blocked_by: the phase whose failure kept it from running.
        duration_s: wall time, seconds.
    """

    id: str
    phase: Phase
    title: str
    status: Status
    evidence: Evidence | None = None
    device: str = "host"
    message: str = ""
    remedy: str = ""
    measurements: list[Measurement] = msgspec.field(default_factory=list)
    table: Table | None = None
    output: str = ""
    blocked_by: Phase | None = None
    duration_s: float = 0.0


class TensorMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A tensor argument of an op use: dtype without the `torch.` prefix, shape and strides in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str = ""


class OpUse(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One ATen overload as the target calls it.

    Attributes:
        op: overload name as in PyTorch's messages, e.g. `"aten::add.Tensor"`.
        inputs: its tensor arguments, in order of appearance (lists flattened).
        outputs: its tensor results.
        scalars: its other arguments by name, as JSON values.
        count: number of calls with exactly this signature.
        module: path of the innermost module, e.g. `"model.layers.0.self_attn"`; `""` outside any.
        source: `file:line` of the innermost line of user code.
        verdict: what happens on the Mac asked about.
        via: the op that is really missing when `op` runs through others.
        advisories: ids of the advisories whose conditions it meets.
        evidence: how the use itself is known.
        flops: floating-point operations of all `count` calls; None when no formula is known.
        bytes: least bytes moved by all `count` calls (inputs read once, outputs written once).
    """

    op: str
    inputs: list[TensorMeta]
    outputs: list[TensorMeta] = msgspec.field(default_factory=list)
    scalars: dict[str, Any] = msgspec.field(default_factory=dict)
    count: int = 1
    module: str = ""
    source: str = ""
    verdict: OpVerdict = OpVerdict.UNKNOWN
    via: str = ""
    advisories: list[str] = msgspec.field(default_factory=list)
    evidence: Evidence = Evidence.PREDICTED
    flops: int | None = None
    bytes: int | None = None


class Host(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The machine a run took place on. Fields that could not be read are None, never a guess.

    Attributes:
        system: `"Darwin"`, `"Linux"` ...
        machine: `"arm64"`, `"x86_64"`: of the hardware, also under Rosetta.
        os_version: macOS version (`"15.5"`), or the kernel's release elsewhere.
        chip: e.g. `"Apple M1 Max"`, or the CPU's brand string.
        cpu_cores: logical cores.
        gpu: name of the Metal (or CUDA) device.
        gpu_cores: cores of an Apple GPU.
        memory_bytes: physical memory.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize.
        virtual_gpu: the GPU is a paravirtual one (CI runners): no evidence for real Macs.
        rosetta: Python runs translated (an x86-64 build on Apple Silicon).
        container: what confines the process, when that is known: `"docker"`, `"sandbox"` ...
        python: Python version.
        packages: installed versions of what matters to a run, by distribution name.
    """

    system: str
    machine: str
    os_version: str
    chip: str | None = None
    cpu_cores: int | None = None
    gpu: str | None = None
    gpu_cores: int | None = None
    memory_bytes: int | None = None
    working_set_bytes: int | None = None
    virtual_gpu: bool = False
    rosetta: bool = False
    container: str | None = None
    python: str = ""
    packages: dict[str, str] = msgspec.field(default_factory=dict)


class Mac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The Mac asked about: the one at hand, a named one, or one of which only the releases are known.

    Attributes:
        torch: the torch release there.
        macos: None when not known: new enough for everything that release can do.
        chip: e.g. `"Apple M1 Max"`; None when not known.
        memory_gb: unified memory, GiB (Apple's GB); None when not known.
        fallback: PYTORCH_ENABLE_MPS_FALLBACK=1 was set before Python started.
    """

    torch: str
    macos: str | None = None
    chip: str | None = None
    memory_gb: float | None = None
    fallback: bool = False


class Target(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What was probed.

    Attributes:
        name: as the user gave it: a repo id, a folder, or the default target's name.
        profile: name of the profile, and where it came from.
        revision: commit of a hub repository.
        path: the local snapshot.
        architecture: class that was loaded.
        parameters: number of parameters.
        weight_bytes: size of the weights in their stored dtypes.
        dtype: dtype asked for.
    """

    name: str
    profile: str
    revision: str | None = None
    path: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    dtype: str | None = None


class DeviceChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which device a run used, and why that one."""

    requested: str
    used: str
    reason: str


class Interruption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a run ended before its time.

    Attributes:
        cause: `"crashed"`, `"timeout"` or `"interrupted"` (by its user).
        signal: e.g. `"SIGABRT"`; empty when none was seen.
        check: id of the check in flight; empty between checks.
        output: last lines of the child's stderr.
    """

    cause: str
    signal: str
    check: str
    output: str


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
    interruption: Interruption | None = None

    def of_phase(self, phase: Phase) -> list[Check]:
        """The checks of one stage, in order."""
        return [check for check in self.checks if check.phase is phase]

    def save(self, path: Path) -> None:
        """Write the document to `path` (UTF-8 JSON, indented)."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a document.

        Raises:
            DataError: it is missing, not JSON, of another form or of a later schema.
        """
        try:
            data = path.read_bytes()
        except OSError as problem:
            raise DataError(f"{path}: cannot be read: {problem.strerror}.") from problem
        try:
            version = msgspec.json.decode(data, type=_Versioned).schema
            if version > SCHEMA_VERSION:
                raise DataError(
                    f"{path}: written in form {version}, this mpsprobe reads up to {SCHEMA_VERSION}.",
                    "Upgrade mpsprobe.",
                )
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise DataError(f"{path}: not a run document: {problem}.") from problem


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
    """The status that decides for a group of checks; `unknown` for an empty group.

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
    """The JSON Schema of `run.json`, made from the types above."""
    schema = msgspec.json.schema(Run)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "mpsprobe run"
    return schema
