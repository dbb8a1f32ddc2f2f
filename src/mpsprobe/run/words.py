"""The enums that every room uses: phases, statuses, evidence levels, verdicts of op uses and keys of measurements."""

from __future__ import annotations

import enum

#: Values of `--device`.
DEVICES = ("auto", "mps", "emulated", "cuda", "cpu")


class Phase(str, enum.Enum):
    """The ordered stages of the suite: six numbered phases, then training, the per-op checks and the benchmarks."""

    AVAILABILITY = "availability"
    PINS = "pins"
    DOWNLOAD = "download"
    TRANSFER = "transfer"
    DATA = "data"
    INFERENCE = "inference"
    TRAINING = "train"
    OPS = "ops"
    BENCHMARK = "benchmark"

    @property
    def order(self) -> int:
        """Return the position of the stage in a run, from 1. For the six phases it is the number that users know."""
        return list(Phase).index(self) + 1

    @property
    def is_numbered(self) -> bool:
        """Check whether this is one of the six phases of every run, each of which needs the previous ones."""
        return self.order <= list(Phase).index(Phase.INFERENCE) + 1

    @property
    def marker(self) -> str:
        """Return the pytest marker: `phase1` ... `phase6`, `train`, `ops`, `benchmark`."""
        return f"phase{self.order}" if self.is_numbered else self.value

    @property
    def label(self) -> str:
        """Return the name that readers see: `phase 3 (download)`, `training`, `ops`."""
        if self.is_numbered:
            return f"phase {self.order} ({self.value})"
        return "training" if self is Phase.TRAINING else self.value


class Status(str, enum.Enum):
    """How a check ended: passed, failed, or without an answer."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    BLOCKED = "blocked"  #: an earlier phase failed; `blocked_by` names it, the message says why
    SKIPPED = "skipped"  #: does not apply here, the message says why
    UNKNOWN = "unknown"  #: not checked; the message says what would be needed
    CRASHED = "crashed"  #: the process died during the check
    TIMEOUT = "timeout"  #: it passed its time limit
    ERROR = "error"  #: the harness itself failed, which says nothing about the model


class Evidence(str, enum.Enum):
    """How a result is known, from weakest to strongest. One level never passes for another."""

    PREDICTED = "predicted"  #: no weights, no device
    EMULATED = "emulated"  #: real values under MPS's rules, on another machine
    MEASURED = "measured"  #: on the named device itself


class OpVerdict(str, enum.Enum):
    """What a Mac does with an op use."""

    NATIVE = "native"
    COMPOSITE = "composite"
    FALLBACK = "fallback"
    RAISES = "raises"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class MeasurementKey(str, enum.Enum):
    """The quantity that a measurement is of. Programs look measurements up by it; `label` is only for readers."""

    TIME_PER_SAMPLE = "time_per_sample"
    FIRST_INFERENCE = "first_inference"
    FORWARD_PASS = "forward_pass"
    TIME_PER_STEP = "time_per_step"
    PEAK_MEMORY = "peak_memory"
    MEMORY_BEFORE_INFERENCE = "memory_before_inference"
    MEMORY_LIMIT = "memory_limit"
    MEDIAN = "median"
    LOWER_QUARTILE = "lower_quartile"
    UPPER_QUARTILE = "upper_quartile"
    ROUNDS = "rounds"
    PROCESSING = "processing"
    BATCH_SIZE = "batch_size"
    MOVING = "moving"
    DEVICE_MEMORY = "device_memory"
    WORKING_SET = "working_set"
    LARGEST_ERROR = "largest_error"
    ACCEPTED_ERROR = "accepted_error"
    TORCH = "torch"
    MACOS = "macos"
    MPS_BUILT = "mps_built"
    MPS_AVAILABLE = "mps_available"
    SYSTEM = "system"
    CHIP = "chip"
    GPU = "gpu"
    GPU_CORES = "gpu_cores"
    MEMORY = "memory"
    CONFINEMENT = "confinement"
    LOAD_TIME = "load_time"
    PARAMETERS = "parameters"
    WEIGHTS = "weights"
    MEMORY_BEFORE_LOADING = "memory_before_loading"
    MEMORY_AFTER_LOADING = "memory_after_loading"
    PEAK_MEMORY_OF_LOADING = "peak_memory_of_loading"
    PARITY = "parity"
    STORED_WEIGHTS = "stored_weights"
    STORED_PARAMETERS = "stored_parameters"
    OBTAINING = "obtaining"
    RANDOM_WEIGHTS = "random_weights"
    DOWNLOAD = "download"
    TO_FETCH = "to_fetch"
    FREE_DISK = "free_disk"
    FETCHED = "fetched"
    THROUGHPUT = "throughput"
    FILES_VERIFIED = "files_verified"
    LOADED_WEIGHTS = "loaded_weights"
    HOST_WAITS = "host_waits"
    CROSSINGS = "crossings"
    CROSSED_BYTES = "crossed_bytes"
    REPLAYED = "replayed"
    NOT_REPLAYED = "not_replayed"
    OUTCOME = "outcome"
    DIFFERENCE = "difference"
    CPU_ROUNDING = "cpu_rounding"
    REPEATABLE = "repeatable"
    FALLBACK_BYTES = "fallback_bytes"
    CALL_TIME = "call_time"
    CPU_CALL_TIME = "cpu_call_time"
    LAUNCH_TIME = "launch_time"

    @property
    def label(self) -> str:
        """Return the name of the quantity for readers."""
        return LABELS[self]


#: The label of each quantity, which may be reworded.
LABELS: dict[MeasurementKey, str] = {
    MeasurementKey.TIME_PER_SAMPLE: "time per sample",
    MeasurementKey.FIRST_INFERENCE: "first inference",
    MeasurementKey.FORWARD_PASS: "forward pass",
    MeasurementKey.TIME_PER_STEP: "time per optimisation step",
    MeasurementKey.PEAK_MEMORY: "peak memory of inference",
    MeasurementKey.MEMORY_BEFORE_INFERENCE: "memory before inference",
    MeasurementKey.MEMORY_LIMIT: "memory limit",
    MeasurementKey.MEDIAN: "median",
    MeasurementKey.LOWER_QUARTILE: "lower quartile",
    MeasurementKey.UPPER_QUARTILE: "upper quartile",
    MeasurementKey.ROUNDS: "rounds",
    MeasurementKey.PROCESSING: "processing",
    MeasurementKey.BATCH_SIZE: "batch size",
    MeasurementKey.MOVING: "moving",
    MeasurementKey.DEVICE_MEMORY: "device memory",
    MeasurementKey.WORKING_SET: "recommended maximum working set",
    MeasurementKey.LARGEST_ERROR: "largest relative error",
    MeasurementKey.ACCEPTED_ERROR: "accepted relative error",
    MeasurementKey.TORCH: "torch",
    MeasurementKey.MACOS: "macOS",
    MeasurementKey.MPS_BUILT: "torch.backends.mps.is_built()",
    MeasurementKey.MPS_AVAILABLE: "torch.backends.mps.is_available()",
    MeasurementKey.SYSTEM: "system",
    MeasurementKey.CHIP: "chip",
    MeasurementKey.GPU: "GPU",
    MeasurementKey.GPU_CORES: "GPU cores",
    MeasurementKey.MEMORY: "memory",
    MeasurementKey.CONFINEMENT: "confinement",
    MeasurementKey.LOAD_TIME: "load time",
    MeasurementKey.PARAMETERS: "parameters",
    MeasurementKey.WEIGHTS: "weights",
    MeasurementKey.MEMORY_BEFORE_LOADING: "memory before loading",
    MeasurementKey.MEMORY_AFTER_LOADING: "memory after loading",
    MeasurementKey.PEAK_MEMORY_OF_LOADING: "peak memory of loading",
    MeasurementKey.PARITY: "parity",
    MeasurementKey.STORED_WEIGHTS: "weights",
    MeasurementKey.STORED_PARAMETERS: "parameters stored",
    MeasurementKey.OBTAINING: "time to obtain",
    MeasurementKey.RANDOM_WEIGHTS: "random weights",
    MeasurementKey.DOWNLOAD: "download",
    MeasurementKey.TO_FETCH: "to fetch",
    MeasurementKey.FREE_DISK: "free disk",
    MeasurementKey.FETCHED: "fetched",
    MeasurementKey.THROUGHPUT: "throughput of the download",
    MeasurementKey.FILES_VERIFIED: "files verified",
    MeasurementKey.LOADED_WEIGHTS: "weights in memory",
    MeasurementKey.HOST_WAITS: "host waits for the device",
    MeasurementKey.CROSSINGS: "crossings between host and device",
    MeasurementKey.CROSSED_BYTES: "crossed between host and device",
    MeasurementKey.REPLAYED: "op uses replayed",
    MeasurementKey.NOT_REPLAYED: "op uses not replayed",
    MeasurementKey.OUTCOME: "outcome",
    MeasurementKey.DIFFERENCE: "difference",
    MeasurementKey.CPU_ROUNDING: "rounding on the CPU",
    MeasurementKey.REPEATABLE: "repeatable",
    MeasurementKey.FALLBACK_BYTES: "copied by the fallback",
    MeasurementKey.CALL_TIME: "time of a call",
    MeasurementKey.CPU_CALL_TIME: "time of a call on the CPU",
    MeasurementKey.LAUNCH_TIME: "time of the smallest op",
}
