"""The workload of a run and its outlook: memory and time on a Mac, the verdict on each route, and a recommendation."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run.records import Mac, Table
from mpsprobe.run.words import Evidence

#: Bits of a cached key or value by the name of `--kv-dtype`. 4- and 8-bit caches also hold scales: transformers'
#: QuantizedCache keeps a 16-bit scale and shift for 64 values.
KV_BITS = {"float32": 32.0, "float16": 16.0, "bfloat16": 16.0, "int8": 8.5, "int4": 4.5}
#: The default number of new tokens of a generation.
NEW_TOKENS = 128
#: The greatest number of iterations of a loop that are run; longer loops are extrapolated linearly.
RUN_TURNS, RUN_STEPS = 8, 3


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The workload that the user requests. A field is None where the target's own input decides.

    Attributes:
        prompt_tokens: The length of the prompt, or of each text, in tokens.
        new_tokens: The number of tokens to generate.
        batch: The number of prompts, images or clips that are processed at once.
        image_size: The side of a square image in pixels.
        frames: The number of frames of a video.
        steps: The number of steps of a diffusion or flow model.
        audio_seconds: The length of the sound in seconds.
        kv_dtype: The dtype of the key-value cache, a key of `KV_BITS`.
        samples: The number of samples that the owner plans, which recommendations count with.
    """

    prompt_tokens: int | None = None
    new_tokens: int | None = None
    batch: int | None = None
    image_size: int | None = None
    frames: int | None = None
    steps: int | None = None
    audio_seconds: int | None = None
    kv_dtype: str | None = None
    samples: int = 1


class Fed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of the input that a run really received: tokens, pictures, sound and rows.

    Attributes:
        rows: The number of prompts, images or clips that are processed at once.
        tokens: The length of each text in tokens; 0 without text.
        audio_seconds: The length of each clip in seconds; 0 without sound.
        image: The height and width of each picture in pixels; empty without pictures.
        batches: The number of batches whose gradients accumulate in one optimisation step.
    """

    rows: int = 1
    tokens: int = 0
    audio_seconds: float = 0.0
    image: tuple[int, ...] = ()
    batches: int = 1


class Fit(str, enum.Enum):
    """Whether a target fits into a Mac's memory."""

    COMFORTABLE = "comfortable"
    TIGHT = "tight"
    NO = "no"
    UNKNOWN = "unknown"

    @property
    def label(self) -> str:
        """Return the phrase for the fit inside a sentence, such as `fits easily`."""
        return {"comfortable": "fits easily", "no": "does not fit"}.get(self.value, self.value)


class Viability(str, enum.Enum):
    """Whether a route is open to a target."""

    YES = "yes"
    CHANGES = "with changes"  #: open after the changes that its reasons name
    NO = "no"
    UNKNOWN = "unknown"  #: not decided; its reasons name what is missing


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A forecast number: an expected value with bounds.

    Attributes:
        floor: The roofline bound, which no run can beat.
        expected: The likeliest value; None when nothing is known to base one on.
        low: The lower bound. Four in five of the measurements held out from the fit lie between `low` and `high`.
            None when `expected` is None or when no measurement was held out.
        high: The upper bound; None when `low` is.
    """

    floor: float
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class MemoryPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One part of the memory that a run takes.

    Attributes:
        name: `"weights"`, `"KV cache"`, `"activations"` and so on.
        bytes: The size in bytes; None when it is unknown, for the reason that `basis` gives.
        basis: What the size is computed from, in a few words.
        evidence: How the size is known.
        system: Whether the system and other programs take it rather than the target's process.
    """

    name: str
    bytes: int | None
    basis: str
    evidence: Evidence
    system: bool = False


class RemedyKind(str, enum.Enum):
    """Where a target runs after a change that saves memory."""

    #: With PyTorch on the same Mac: another dtype, a shorter context, other options of training.
    PYTORCH = "pytorch"
    #: With MLX on the same Mac.
    MLX = "mlx"
    #: On a Mac with more memory.
    LARGER_MAC = "larger-mac"


class MemoryRemedy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change after which the target needs less memory.

    Attributes:
        kind: Where the target runs after the change.
        sentence: The change, the memory that is needed after it, and whether the target then fits.
        fit: Whether the target fits after the change.
    """

    kind: RemedyKind
    sentence: str
    fit: Fit


class Memory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The memory that a target needs on one Mac, and what that Mac has.

    Attributes:
        parts: The parts, including the system's share.
        needed_bytes: The peak that the process needs on the GPU, in bytes; None when unknown.
        available_bytes: The physical memory in bytes; None when unknown.
        working_set_bytes: Metal's recommendedMaxWorkingSetSize in bytes; None when unknown.
        limit_bytes: The size in bytes at which PyTorch's allocator raises (its high watermark); None when
            unknown.
        largest_buffer_bytes: The largest single tensor of the run in bytes; None when unknown.
        buffer_limit_bytes: The predicted maxBufferLength of Metal in bytes: PyTorch refuses a buffer of that
            size or more.
        fit: Whether the target fits.
        reason: The reason for `fit`, in one sentence.
        remedies: Changes that save memory, the smallest change first.
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
    remedies: list[MemoryRemedy] = []


class TimePart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The time of one stage of a sample.

    Attributes:
        name: `"prefill"`, `"decode"`, `"flow step"`, `"download"` and so on.
        repeats: The number of times that the stage occurs in a sample, such as tokens or steps.
        seconds: The time of all repeats in seconds.
        bound: The resource that limits the stage: `"compute"`, `"bandwidth"`, `"launch"`, `"copy"`, `"network"` or
            `"disk"`; empty when several do.
        flops: The floating-point operations of all repeats; None when unknown.
        bytes: The bytes that all repeats move; None when unknown.
        launches: The kernel launches of all repeats; None when unknown.
    """

    name: str
    repeats: int = 1
    seconds: Range
    bound: str = ""
    flops: int | None = None
    bytes: int | None = None
    launches: int | None = None


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A forecast speed in the unit in which people compare models.

    Attributes:
        name: `"decode"`, `"prefill"`, `"time to first token"`, `"unet"`, `"real-time factor"` or `"throughput"`.
        unit: `"tokens/s"`, `"s"`, `"s/it"`, `"s/s"` or `"items/s"`.
        expected: The likeliest value; None when unknown.
        low: The smaller bound of the range, with the meaning that it has in `Range`; None when unknown.
        high: The larger bound; None when unknown.
    """

    name: str
    unit: str
    expected: float | None = None
    low: float | None = None
    high: float | None = None


class Timing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The time of a sample on one machine.

    Attributes:
        hardware: The name of the row in the hardware table, or of the calibrated device.
        basis: `"specification"` or `"calibrated"`, with the sources of the rates.
        parts: The stages in order. On a Mac they begin with `"download"` and `"load"`, which `per_sample`
            leaves out.
        per_sample: The time in seconds of one sample once the target is loaded; None when unknown.
        rates: The speed of a sample in the units in which people compare models.
        native_time_share: The share of the expected op time that native kernels take, from 0 to 1; None when
            unknown.
        native_call_share: The share of the calls that run in native kernels, from 0 to 1; None when unknown.
        share_by_kind: The share of the expected op time by family of ops, from 0 to 1, as if each op ran by itself;
            empty when unknown.
        wait_seconds: The seconds of a sample that the host spends on waiting for the device, beyond the kernels
            that it waits for; None when unknown.
        unmeasured: The share of the expected op time by kind of ops whose speed on MPS nobody has measured, from 0 to
            1, largest first; the ranges are wider by what these may take.
        detour: Whether the target's code copies large tensors to the CPU and back, on MPS. The work there is not
            seen, so `per_sample` is the time of the rest and has no range.
    """

    hardware: str
    basis: str
    parts: list[TimePart]
    per_sample: Range | None = None
    rates: list[Rate] = []
    native_time_share: float | None = None
    native_call_share: float | None = None
    share_by_kind: dict[str, float] = {}
    wait_seconds: float | None = None
    unmeasured: dict[str, float] = {}
    detour: bool = False


class Epoch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pass of training over the data.

    Attributes:
        samples: The number of samples in the data.
        steps: The number of optimisation steps; the last one may take fewer samples.
        seconds: The time of all steps on the target Mac in seconds, without loading data, evaluation and
            checkpoints.
    """

    samples: int
    steps: int
    seconds: Range


class Forecast(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The forecast memory and time of a sample on the target Mac.

    Attributes:
        mac: The target Mac. Its `chip` and `memory_gb` are known wherever numbers are given.
        evidence: Always predicted: memory and time are arithmetic, however well the underlying ops are known.
        memory: The memory forecast; None when too little of the Mac is known.
        time: The time forecast; None when too little of the Mac is known.
        epoch: The time of one epoch of training; None where nothing is trained or the time of a step is unknown.
        elsewhere: The time on other machines, such as cloud GPUs.
        workload: The requested workload in one sentence; empty where the target's own input decides.
        limits: Sentences that state what the forecast cannot show.
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
    """The verdict on one part of the target on the MLX route.

    Attributes:
        name: The path of the module in the target, or the role of the part.
        state: `"reuse-proven"`, `"name-only"`, `"port-needed"`, `"blocked"` or `"not-run-on-Metal"`.
        does: What has to be done with it: `"reuse"`, `"wrap"` or `"port"`.
        days: The least and the greatest effort in working days.
        reason: The reason for the state, in one sentence.
    """

    name: str
    state: str
    does: str
    days: tuple[float, float]
    reason: str


class Route(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The verdict on one way to run the target.

    Attributes:
        name: `"mps"`, `"hybrid"`, `"mlx"` or `"cloud"`.
        viability: Whether the route is open.
        sentence: The verdict in one sentence.
        reasons: The grounds of the verdict, one sentence each.
        evidence: The weakest evidence that the verdict rests on.
        components: The parts of the target on the MLX route; empty for other routes.
        tables: The tables behind the verdict, by title.
        commands: Shell lines that take this route with this target and workload, in order; comments begin with `#`.
            Empty where no command is known to work.
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
    """The advice to the target's owner.

    Attributes:
        route: The name of the recommended route; empty when the evidence supports none.
        sentence: The advice in one sentence.
        reasons: The reasons for it, one sentence each.
        would_change: The facts that would change it, one sentence each.
        commands: Shell lines that carry the advice out, which are those of the recommended route.
        evidence: The weakest evidence that the advice rests on.
        matrix: A table that compares the routes by criterion.
        checklist: The questions of the checklist, each with its answer and evidence.
        timeline: The time that each step to a first result takes.
        releases: The verdict on each torch release; None when only one was requested.
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
    """One Mac of the catalogue, compared with what the target and its workload need.

    Attributes:
        mac: The full name of the Mac, such as `"m4-pro-20c-48"`.
        chip: The name of the chip as macOS writes it.
        gpu_cores: The number of GPU cores.
        memory_gib: The physical memory in GiB.
        fit: Whether the target fits at its own dtype.
        needed_bytes: The peak that the target takes on the GPU in bytes; None when unknown.
        working_set_bytes: The predicted recommendedMaxWorkingSetSize of Metal in bytes.
        seconds: The time in seconds of one sample once the target is loaded; None where it does not fit.
        rates: The speed of a sample, the most telling rate first; empty where the target does not fit.
        quantised: The largest number of bits at which MLX's weights fit easily, such as `"8-bit"`; empty where no
            number does, or where MLX is not known to support the target.
        epoch: The time of one epoch of a training with a known number of samples; None for others, and where the
            target does not fit.
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
    """The forecast, the routes and the recommendation, which all follow from the op uses of a run.

    Attributes:
        forecast: Memory and time on the target Mac; None when nothing was forecast.
        routes: Each route with its reasons.
        recommendation: The advice to the target's owner; None when no route was judged.
        macs: Every Mac of the catalogue compared with what the target needs, in the catalogue's order; empty when
            that was not requested.
    """

    forecast: Forecast | None = None
    routes: list[Route] = []
    recommendation: Recommendation | None = None
    macs: list[MacFit] = []
