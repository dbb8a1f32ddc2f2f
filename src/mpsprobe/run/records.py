"""The records of a run: checks with their measurements, op uses, the host, the target Mac and the target."""

from __future__ import annotations

from typing import Any

import msgspec

from mpsprobe.run.words import Evidence, MeasurementKey, OpVerdict, Phase, Status


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number (or fact) with everything that is needed to read it.

    Attributes:
        name: What was measured, for readers, such as `"time per sample"`. Programs use `key`.
        value: The value; None when it could not be measured, for the reason that `unit` then gives.
        unit: `"s"`, `"bytes"`, `""` and so on.
        evidence: How the value is known.
        device: Where it was measured: `"mps"`, `"emulated"`, `"cuda"`, `"cpu"`, or `"host"` for facts of the
            machine.
        key: The `MeasurementKey`, followed by `:` and a name where a check measures several things; `""` in
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
        """Build a measurement of a quantity.

        Args:
            quantity: The quantity, which gives the label and the key.
            value: The value; None when it could not be measured.
            unit: The unit of the value.
            evidence: How the value is known.
            device: Where it was measured.
            subject: The name of the thing measured, where a check measures several.
        """
        label, key = quantity.label, quantity.value
        if subject:
            label, key = f"{label} of {subject}", f"{key}:{subject}"
        return cls(label, value, unit, evidence, device, key)

    @property
    def id(self) -> str:
        """Return an id that is unique within its check and the same in every run."""
        return self.key or self.name


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows that belong to a check, such as the requirement, the installed version and the verdict of each pin."""

    columns: list[str]
    rows: list[list[str | int | float | bool | None]]


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One distinct way in which the target Mac refuses one source line.

    Attributes:
        phase: The phase that met it.
        kind: `missing-op`, `dtype`, `device`, `generator`, `limit`, `memory`, `autocast`, `mixed-dtypes`,
            `weights`, `quantisation` or `error`.
        op: The overload name of the op; empty where no op is to blame.
        message: The message that PyTorch gives on the Mac.
        grade: `certain`, `likely` or `assumed`.
        source: The place as `file:line`; empty when no line of the target led there.
        count: The number of times that it happened.
        fix: The fix, for readers; empty when none is known.
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
        """Return the kind and `file:line`, which stay the same in another run."""
        return self.kind, self.source

    @property
    def gist(self) -> str:
        """Return the first sentence of the message; the rest of PyTorch's messages is the same for every op."""
        first = self.message.strip().splitlines()[0]
        sentence, end, _ = first.partition(". ")
        return sentence + end.rstrip()

    def __str__(self) -> str:
        return f"{self.gist}{f' (at {self.source})' if self.source else ''}"


class Refusals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusals"):
    """The refusals that a check reports."""

    refusals: list[Refusal]


class RecipeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="recipe"):
    """The settings that a check found.

    Attributes:
        settings: The values of options by name (`fallback`, `torch`, `dtype`, `autocast`); empty when none helps.
        tried: Whether the target was run with them.
        left: The number of refusals that remain, as far as a run or the derivation knows.
    """

    settings: dict[str, str]
    tried: bool
    left: int


class ReplayRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of replaying one op use, as the document stores it.

    Attributes:
        id: The id of its own check.
        outcome: An `ops.protocol.ReplayOutcome`, or `"skipped"`.
        message: What the replay found, for readers.
        count: The number of its calls in the target.
    """

    id: str
    outcome: str
    message: str = ""
    count: int = 1


class Replays(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="replays"):
    """The op uses that a check replayed."""

    replays: list[ReplayRecord]


class Rounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="rounds"):
    """The wall time in seconds of each round of a benchmark, in order."""

    seconds: list[float]


#: Typed facts of a check for programs; its texts and its table are for readers.
CheckData = Refusals | RecipeRecord | Replays | Rounds


class Check(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One assertion with a status and its evidence.

    Attributes:
        id: An id that is unique in a run, such as `"transfer.dtypes"` or `"ops.aten.mm-f32-2x3_3x4"`.
        phase: The stage that it belongs to.
        title: The assertion, as a sentence without a full stop.
        status: How the check ended.
        evidence: How that is known; None when nothing was learnt (blocked, skipped, unknown).
        device: Where that was learnt; see `Measurement.device`.
        message: What was found, in one line; for a failure with the place.
        remedy: What to do about it, a command where possible.
        measurements: The measurements behind it.
        table: The rows behind it, for readers.
        data: The same facts for programs; None where no program reads them.
        output: The last lines of output that explain it, such as the stderr of a crash or a traceback.
        blocked_by: The phase whose failure kept it from running.
        duration_s: The wall time in seconds.
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
    """A tensor argument or result of an op use.

    Attributes:
        dtype: The dtype without the `torch.` prefix.
        shape: The shape in elements.
        strides: The strides in elements.
        device: The device type.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str = ""


class OpUse(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One ATen overload as the target calls it.

    Attributes:
        op: The overload name as in PyTorch's messages, such as `"aten::add.Tensor"`.
        inputs: Its tensor arguments, in order of appearance, with lists flattened.
        outputs: Its tensor results.
        scalars: Its other arguments by name, as JSON values.
        count: The number of calls with exactly this signature.
        module: The path of the innermost module, such as `"model.layers.0.self_attn"`; `""` outside any module.
        source: The innermost line of user code as `file:line`.
        verdict: What happens on the target Mac.
        via: The op that is really missing when `op` is implemented through others; else empty.
        reason: The reason why it is not plainly native; empty when it is, or when no reason is known.
        grade: `certain`, `likely` (only some implementations are affected) or `assumed` (rests on an assumed
            value).
        advisories: The ids of the advisories that apply.
        possible_advisories: Those of them that depend on something unknown, such as macOS, the chip or a mode.
        evidence: How the use itself is known.
        flops: The floating-point operations of all `count` calls; None when no formula is known.
        bytes: The least number of bytes that all `count` calls move: inputs read once, outputs written once.
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
    """The machine that a run took place on. A field that could not be read is None, never a guess.

    Attributes:
        system: The operating system: `"Darwin"`, `"Linux"` and so on.
        machine: The architecture of the hardware, `"arm64"` or `"x86_64"`, also under Rosetta.
        os_version: The version of macOS (`"15.5"`), or of the kernel elsewhere.
        chip: The chip, such as `"Apple M1 Max"`, or the CPU's brand string.
        cpu_cores: The number of logical CPU cores.
        gpu: The name of the Metal (or CUDA) device.
        gpu_cores: The number of cores of an Apple GPU.
        memory_bytes: The physical memory in bytes.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize in bytes.
        virtual_gpu: Whether the GPU is paravirtual, as on CI runners; such a GPU is no evidence for real Macs.
        rosetta: Whether Python runs translated (an x86-64 build on Apple Silicon).
        container: What confines the process, where that is known: `"docker"`, `"sandbox"` and so on.
        python: The version of Python.
        packages: The installed versions of the packages that matter to a run, by distribution name.
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
    """The target Mac: the present machine, a named one, or one with known releases and an unknown chip.

    Attributes:
        torch: The torch release on that Mac.
        macos: The version of macOS; None when unknown, which counts as new enough for everything that the torch
            release supports.
        chip: The chip, such as `"Apple M1 Max"`; None when unknown.
        memory_gb: The unified memory in GiB (Apple writes GB); None when unknown.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set before Python starts.
    """

    torch: str
    macos: str | None = None
    chip: str | None = None
    memory_gb: float | None = None
    fallback: bool = False


class TrainingStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The optimisation step that takes the place of an inference where the target is trained.

    Attributes:
        method: `"full"` or `"lora"`.
        optimizer: The name of the optimizer.
        rows: The number of samples in a step: the batch size times the number of batches whose gradients
            accumulate.
    """

    method: str
    optimizer: str
    rows: int = 1


class Target(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The model that was probed, as far as it is known.

    Attributes:
        name: The model as the user named it: a repo id, a folder, or the name of the default target.
        profile: The name of the profile, and where it came from.
        revision: The commit of a Hub repository.
        path: The folder of the local snapshot.
        architecture: The class that was loaded.
        parameters: The number of parameters.
        weight_bytes: The size of the weights in bytes, in their stored dtypes.
        dtype: The requested dtype.
        samples: The number of inferences that the owner plans. In training it is the number of samples in the data,
            each taken once an epoch.
        perturbations: The number of further inferences on altered samples.
        asks: The questions of the checklist that only this profile asks, by their names in `routes.checklist`.
        training: The optimisation step that takes the place of an inference; None where the target is not
            trained.
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
    """The device that a run used, and why.

    Attributes:
        requested: The device that the user asked for, or `auto`.
        used: The device that was used.
        reason: The reason for the choice.
    """

    requested: str
    used: str
    reason: str


class LoggedFallback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An op that PyTorch itself logged as run by the CPU, with PYTORCH_MPS_LOG_PROFILE_INFO.

    Attributes:
        op: The name of the op without its overload, such as `"aten::_linalg_eigh"`.
        runs: The number of its runs.
        copied_bytes: The bytes of its tensors, which cross between the device and the host.
        seconds: The CPU time of all runs, in seconds; None when the log does not state it.
    """

    op: str
    runs: int
    copied_bytes: int
    seconds: float | None = None


class Interruption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a run ended before its time.

    Attributes:
        cause: `"crashed"`, `"timeout"` or `"interrupted"` (by the user).
        signal: The signal, such as `"SIGABRT"`; empty when none was seen.
        check: The id of the check in flight; empty between checks.
        output: The last lines of the child's stderr.
    """

    cause: str
    signal: str
    check: str
    output: str
