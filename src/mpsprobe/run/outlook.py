"""What a run says of the future: memory and time on a Mac, each route, and what its owner should do."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run.records import Mac, Table
from mpsprobe.run.words import Evidence


class Fit(str, enum.Enum):
    """Whether a target fits into a Mac's memory."""

    COMFORTABLE = "comfortable"
    TIGHT = "tight"
    NO = "no"
    UNKNOWN = "unknown"

    @property
    def label(self) -> str:
        """Return the words for it, as they stand in a sentence."""
        return {"comfortable": "fits easily", "no": "does not fit"}.get(self.value, self.value)


class Viability(str, enum.Enum):
    """Whether a route leads anywhere."""

    YES = "yes"
    CHANGES = "with changes"  #: after the changes that its reasons name
    NO = "no"
    UNKNOWN = "unknown"  #: its reasons say what would have to be found out


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A forecast number: an expected value between bounds.

    Attributes:
        floor: the roofline: no run can be below it.
        expected: the likeliest value; None when nothing is known to base one on.
        low, high: four in five measurements that were held out from the fit lie between such bounds; None as
            `expected`, and where nothing was held out.
    """

    floor: float
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class MemoryPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One share of the memory a target takes.

    Attributes:
        name: `"weights"`, `"KV cache"`, `"activations"` ...
        bytes: None when it is unknown; `basis` then says why.
        basis: what the number is made from, in a few words.
        evidence: how that is known.
        system: Whether the system and other programs take it, and not the target's process.
    """

    name: str
    bytes: int | None
    basis: str
    evidence: Evidence
    system: bool = False


class Memory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Memory on one Mac.

    Attributes:
        parts: what takes it, the system's share included.
        needed_bytes: what the process needs on the GPU at its peak.
        available_bytes: physical memory.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize.
        limit_bytes: where the allocator raises (the high watermark).
        largest_buffer_bytes: the largest single tensor of the run; None when unknown.
        buffer_limit_bytes: Metal's maxBufferLength there, predicted: PyTorch refuses a buffer of that size or more.
        fit: the verdict.
        reason: one sentence for it.
        remedies: what would make it fit, the most telling first.
    """

    parts: list[MemoryPart]
    needed_bytes: int | None
    available_bytes: int | None
    working_set_bytes: int | None = None
    limit_bytes: int | None = None
    largest_buffer_bytes: int | None = None
    buffer_limit_bytes: int | None = None
    fit: Fit = Fit.UNKNOWN
    reason: str = ""
    remedies: list[str] = []


class TimePart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One stage of a sample.

    Attributes:
        name: `"prefill"`, `"decode"`, `"flow step"`, `"download"` ...
        repeats: how often it happens in a sample (tokens, steps).
        seconds: of all repeats.
        bound: what limits it: `"compute"`, `"bandwidth"`, `"launch"`, `"copy"`, `"network"` or `"disk"`; empty when
            mixed.
        flops, bytes, launches: of all repeats; None when unknown.
    """

    name: str
    repeats: int = 1
    seconds: Range
    bound: str = ""
    flops: int | None = None
    bytes: int | None = None
    launches: int | None = None


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A forecast in the unit that people compare.

    Attributes:
        name: `"decode"`, `"prefill"`, `"time to first token"`, `"unet"`, `"real-time factor"`, `"throughput"`.
        unit: `"tokens/s"`, `"s"`, `"s/it"`, `"s/s"` or `"items/s"`.
        expected, low, high: as in `Range`; `low` is the smaller number.
    """

    name: str
    unit: str
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class Timing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Time on one machine.

    Attributes:
        hardware: name of the row of the hardware table, or of the calibrated device.
        basis: `"specification"` or `"calibrated"`, with the sources of the rates.
        parts: stages in order: on a Mac `"download"` and `"load"` first, which `per_sample` does not count.
        per_sample: of one sample, once loaded; None when unknown.
        rates: of a sample, in the units that people compare.
        native_time_share: share of the expected op time spent in native kernels, 0 ... 1.
        native_call_share: the same of calls.
        share_by_kind: share of the expected op time by family of ops, 0 ... 1, each op taken by itself; empty when
            unknown.
    """

    hardware: str
    basis: str
    parts: list[TimePart]
    per_sample: Range | None = None
    rates: list[Rate] = []
    native_time_share: float | None = None
    native_call_share: float | None = None
    share_by_kind: dict[str, float] = {}


class Epoch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pass of training over the data.

    Attributes:
        samples: of the data.
        steps: optimisation steps, the last of them perhaps with fewer samples.
        seconds: of all steps on the target Mac, without loading data, evaluation and checkpoints.
    """

    samples: int
    steps: int
    seconds: Range


class Forecast(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Memory and time on the target Mac.

    Attributes:
        mac: the Mac; its `chip` and `memory_gb` are known where numbers are.
        evidence: of the op uses that it rests on; never better than predicted for a Mac that is not at hand.
        memory, time: what was forecast; None when the Mac is not known well enough.
        elsewhere: time on other machines, such as cloud GPUs.
        workload: what was asked of the target, in one sentence; empty where its own input decides.
        epoch: of a training; None where nothing is trained, or the time of a step is not known.
        limits: what it cannot say, one sentence each.
    """

    mac: Mac
    evidence: Evidence
    memory: Memory | None = None
    time: Timing | None = None
    epoch: Epoch | None = None
    elsewhere: list[Timing] = []
    workload: str = ""
    limits: list[str] = []


class Component(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of the target on the MLX route.

    Attributes:
        name: path of its module in the target, or of its role.
        state: `"reuse-proven"`, `"name-only"`, `"port-needed"`, `"blocked"` or `"not-run-on-Metal"`.
        does: `"reuse"`, `"wrap"` or `"port"`.
        days: effort, least and most.
        reason: one sentence.
    """

    name: str
    state: str
    does: str
    days: tuple[float, float]
    reason: str


class Route(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One way to run the target.

    Attributes:
        name: `"mps"`, `"hybrid"`, `"mlx"` or `"cloud"`.
        viability: where it leads.
        sentence: the judgement in one sentence.
        reasons: what it rests on, one sentence each.
        evidence: the weakest of it.
        components: of the MLX route.
        tables: rows behind it, by title.
        commands: lines for a shell that follow this route with this target and workload, in order; comments begin
            with `#`. Empty where no command is known to work.
    """

    name: str
    viability: Viability
    sentence: str
    reasons: list[str] = []
    evidence: Evidence = Evidence.PREDICTED
    components: list[Component] = []
    tables: dict[str, Table] = {}
    commands: list[str] = []


class Recommendation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the owner should do.

    Attributes:
        route: name of the route; empty when the evidence is not enough for any.
        sentence: the advice in one sentence.
        reasons: why, one sentence each.
        would_change: what would change it, one sentence each.
        commands: lines for a shell that carry the advice out: those of the recommended route.
        evidence: the weakest that it rests on.
        matrix: the routes compared by criterion.
        checklist: the questions a user brings, each with its answer and evidence.
        timeline: how long each step to a first result takes.
        releases: the target over torch releases; None when only one was asked about.
    """

    route: str
    sentence: str
    reasons: list[str] = []
    would_change: list[str] = []
    commands: list[str] = []
    evidence: Evidence = Evidence.PREDICTED
    matrix: Table | None = None
    checklist: Table | None = None
    timeline: Table | None = None
    releases: Table | None = None


class MacFit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Mac of the catalogue against the target and its workload.

    Attributes:
        mac: full name, `"m4-pro-20c-48"`.
        chip: as macOS writes it.
        gpu_cores: number of GPU cores.
        memory_gib: physical memory, GiB.
        fit: whether the target fits at its own dtype.
        needed_bytes: what the target takes on the GPU at its peak; None when unknown.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize there, predicted.
        seconds: time of one sample, once loaded; None where it does not fit.
        rates: of a sample, the most telling first; empty where it does not fit.
        quantised: the most bits with which MLX's weights fit easily, `"8-bit"`; empty where none do, or where nothing
            says that MLX holds the target.
        epoch: of a training whose number of samples is known; None for others, and where it does not fit.
    """

    mac: str
    chip: str
    gpu_cores: int
    memory_gib: int
    fit: Fit
    needed_bytes: int | None
    working_set_bytes: int
    seconds: Range | None = None
    rates: list[Rate] = []
    quantised: str = ""
    epoch: Epoch | None = None


class Outlook(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Forecast, routes and recommendation: what follows from a run's op uses.

    Attributes:
        forecast: memory and time; None when nothing was forecast.
        routes: each route with its reasons.
        recommendation: what the owner should do; None when no route was judged.
        macs: every Mac of the catalogue against the target, in the catalogue's order; empty when not asked.
    """

    forecast: Forecast | None = None
    routes: list[Route] = []
    recommendation: Recommendation | None = None
    macs: list[MacFit] = []
