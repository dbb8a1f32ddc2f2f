"""What a run records: checks with their numbers, op uses, the machine, the target Mac, the target."""

from __future__ import annotations

from typing import Any

import msgspec

from mpsprobe.run.words import Evidence, MeasurementKey, OpVerdict, Phase, Status


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number (or fact) with what it takes to read it.

    Attributes:
        name: what was measured, for readers: `"time per sample"`. Programs use `key`.
        value: the value; None when it could not be had (`unit` then says why it is absent).
        unit: `"s"`, `"bytes"`, `""` ...
        evidence: how it is known.
        device: where: `"mps"`, `"emulated"`, `"cuda"`, `"cpu"`, or `"host"` for facts of the machine.
        key: the `MeasurementKey`, with `:` and a name behind it where a check measures it of several things; `""` in
            documents of mpsprobe before 0.1.
    """

    name: str
    value: float | int | str | bool | None
    unit: str
    evidence: Evidence
    device: str
    key: str = ""

    @classmethod
    def of(
        cls,
        quantity: MeasurementKey,
        value: float | int | str | bool | None,
        unit: str,
        evidence: Evidence,
        device: str,
        subject: str = "",
    ) -> Measurement:
        """Return a measurement of a quantity, of one `subject` among several where a check has those."""
        label, key = quantity.label, quantity.value
        if subject:
            label, key = f"{label} of {subject}", f"{key}:{subject}"
        return cls(label, value, unit, evidence, device, key)

    @property
    def id(self) -> str:
        """Unique within a check, and the same in every run."""
        return self.key or self.name


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that belong to a check, such as required / found / verdict of each pin."""

    columns: list[str]
    rows: list[list[str | int | float | bool | None]]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way in which the target Mac refuses one line.

    Attributes:
        phase: the phase that met it.
        kind: `missing-op`, `dtype`, `device`, `generator`, `limit`, `memory`, `autocast`, `mixed-dtypes` or `error`.
        op: overload name; empty where no op is to blame.
        message: PyTorch's message on the Mac.
        grade: `certain`, `likely` or `assumed`.
        source: `file:line`; empty when no line of the target led there.
        count: how often.
        fix: what helps, for readers; empty when nothing is known.
    """

    phase: Phase
    kind: str
    op: str
    message: str
    grade: str
    source: str
    count: int = 1
    fix: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Kind and `file:line`: what stays the same in another run."""
        return self.kind, self.source

    @property
    def gist(self) -> str:
        """First sentence of the message: the rest is the same for every op."""
        first = self.message.strip().splitlines()[0]
        sentence, end, _ = first.partition(". ")
        return sentence + end.rstrip()

    def __str__(self) -> str:
        return f"{self.gist}{f' (at {self.source})' if self.source else ''}"


class Refusals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusals"):
    """What a check says was refused."""

    refusals: list[Refusal]


class RecipeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="recipe"):
    """The settings that a check found.

    Attributes:
        settings: options by name (`fallback`, `torch`, `dtype`, `autocast`) and their values; empty when none helps.
        tried: the target was run with them.
        left: refusals that remain, as far as a run or the derivation knows.
    """

    settings: dict[str, str]
    tried: bool
    left: int


class ReplayRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replayed op use.

    Attributes:
        id: id of its own check.
        outcome: an `ops.protocol.ReplayOutcome`, or `"skipped"`.
        message: what was seen, for readers.
        count: its calls in the target.
    """

    id: str
    outcome: str
    message: str = ""
    count: int = 1


class Replays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="replays"):
    """The op uses that a check replayed."""

    replays: list[ReplayRecord]


class Rounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="rounds"):
    """The wall time of each round of a benchmark, seconds, in their order."""

    seconds: list[float]


#: What programs read of a check; its texts and its table are for readers.
CheckData = Refusals | RecipeRecord | Replays | Rounds


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
        table: rows behind it, for readers.
        data: the same for programs, where any reads it.
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
    data: CheckData | None = None
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
        verdict: what happens on the target Mac.
        via: the op that is really missing when `op` runs through others.
        reason: why it is not plainly native; empty when it is, or when nobody said.
        grade: `certain`, `likely` (a rebuilt route, or only some path) or `assumed` (rests on an assumed value).
        advisories: ids of the advisories that apply.
        possible_advisories: those among them that depend on what is not known: macOS, chip, a mode.
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
    reason: str = ""
    grade: str = "certain"
    advisories: list[str] = msgspec.field(default_factory=list)
    possible_advisories: list[str] = msgspec.field(default_factory=list)
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
    """The target Mac: the one at hand, a named one, or one of which only the releases are known.

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


class TrainingStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one inference of a target is where it is trained: an optimisation step.

    Attributes:
        method: `"full"` or `"lora"`.
        optimizer: by name.
        rows: samples that a step takes: those of a batch, times the batches whose gradients add up.
    """

    method: str
    optimizer: str
    rows: int = 1


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
        samples: how many inferences its owner wants; `perturbations`: how many more on altered samples.
        asks: questions of the checklist that only this profile has, by their names in `routes.checklist`.
        training: the step that stands for an inference; None where the target is not trained. `samples` are then those
            of the data, and an epoch takes each once.
    """

    name: str
    profile: str
    revision: str | None = None
    path: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    dtype: str | None = None
    samples: int = 1
    perturbations: int = 0
    asks: list[str] = msgspec.field(default_factory=list)
    training: TrainingStep | None = None


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
