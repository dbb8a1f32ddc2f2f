"""What is asked of the worker that replays op uses, and what it answers. Torch-free: both sides import it."""

from __future__ import annotations

import enum

import msgspec

from mpsprobe.run import OpUse


class ReplayOutcome(str, enum.Enum):
    """What became of one op use on the device, worst last where several hold."""

    NATIVE = "native"  #: ran, and its values agree with the reference
    SLOWER = "slower"  #: the same, but the CPU of this machine is faster
    FALLBACK = "fallback"  #: the CPU computed it
    VARIES = "varies"  #: two runs with the same inputs and the same seed differ
    UNKNOWN = "unknown"  #: not replayed, or there is nothing to compare with
    WRONG = "wrong"  #: ran, and its values do not agree
    NAN = "nan"  #: NaN or infinity where the reference has a number
    RAISES = "raises"  #: a Python exception that the CPU does not raise for the same inputs
    FAULT = "fault"  #: the GPU reported a fault that PyTorch did not pass on
    HANGS = "hangs"  #: did not end within its limit
    CRASHED = "crashed"  #: its process died


class Setup(msgspec.Struct, frozen=True):
    """The first message to a worker: which device, with what rules.

    Attributes:
        device: `"mps"`, `"emulated"`, `"cuda"` or `"cpu"`.
        torch, macos, memory_gb, fallback: the Mac that is emulated; see `run.Mac`.
        threads: CPU threads of an op; 0 leaves torch's own choice.
        memory_bytes: what one op use may allocate in the worker at most.
    """

    device: str
    torch: str
    macos: str | None
    memory_gb: float | None
    fallback: bool
    threads: int
    memory_bytes: int


class Request(msgspec.Struct, frozen=True, tag="replay"):
    """Replay one op use."""

    use: OpUse
    seed: int


class ProbeRequest(msgspec.Struct, frozen=True, tag="probe"):
    """Run one advisory's probe."""

    name: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has imported torch and opened its device."""


class ElementComparison(msgspec.Struct, frozen=True):
    """One result of an op against the reference.

    Attributes:
        output: which result, from 0.
        dtype: of the result.
        reference: dtype that the reference was computed in.
        difference: largest |device - reference| over the elements where both are finite.
        noise: the same for the CPU in the op's own dtype: what rounding alone costs; None when the CPU cannot.
        scale: largest |reference|.
        rtol, atol: an element agrees when |device - reference| <= atol + rtol * |reference|.
        off: elements that do not agree.
        not_finite: elements that are NaN or infinite where the reference, in the op's dtype, is a number.
        elements: how many there are.
        worst: where the largest difference is and what stands there: `"[0, 3]: 1.5 instead of 0.7"`.
    """

    output: int
    dtype: str
    reference: str
    difference: float
    noise: float | None
    scale: float
    rtol: float
    atol: float
    off: int
    not_finite: int
    elements: int
    worst: str = ""

    @property
    def excused(self) -> bool:
        """Return whether the CPU's own rounding is off by about as much: then the dtype is to blame, not the device."""
        return self.noise is not None and self.difference <= _NOISE_FACTOR * self.noise

    @property
    def agrees(self) -> bool:
        """Return whether every element agrees, or differs by no more than rounding explains."""
        return not self.not_finite and (not self.off or self.excused)


#: Another order of additions may cost several times what one order costs.
_NOISE_FACTOR = 4.0


class CallTiming(msgspec.Struct, frozen=True):
    """Cost of one call, seconds, synchronised.

    Attributes:
        device_s: on the device.
        cpu_s: on this machine's CPU, same shapes and dtype; None when the CPU cannot.
        launch_s: what the smallest op costs on the device: below a few times this the device waits for the host.
    """

    device_s: float
    cpu_s: float | None
    launch_s: float

    @property
    def slower(self) -> bool:
        """Return whether the CPU is clearly faster, and not only because a launch costs more than the work."""
        return (
            self.cpu_s is not None
            and self.device_s > _SLOWER * self.cpu_s
            and self.device_s > _LAUNCHES * self.launch_s
        )


_SLOWER, _LAUNCHES = 1.2, 3.0


class Replay(msgspec.Struct, tag="answer", kw_only=True):
    """What a worker learnt of one op use.

    Attributes:
        outcome: the worst that was seen.
        message: one line that explains it; empty for a plain pass.
        error: text of the exception, whole.
        comparisons: one a tensor result.
        compared: why there are none; empty when there are.
        repeatable: whether two runs gave the same bits; None when that was not tried.
        fallbacks: ops that the CPU computed.
        copied_bytes: memory that one call copies between device and host because of that, at least.
        timing: where time was measured.
        output: last lines that the op's process wrote.
        signal: what ended its process.
        spent_s: wall time of the whole replay.
        spoilt: the worker should be replaced (out of memory).
    """

    outcome: ReplayOutcome = ReplayOutcome.NATIVE
    message: str = ""
    error: str = ""
    comparisons: list[ElementComparison] = []
    compared: str = ""
    repeatable: bool | None = None
    fallbacks: list[str] = []
    copied_bytes: int | None = None
    timing: CallTiming | None = None
    output: str = ""
    signal: str = ""
    spent_s: float = 0.0
    spoilt: bool = False


class ProbeAnswer(msgspec.Struct, frozen=True, tag="probed"):
    """What a probe saw.

    Attributes:
        answer: `"ok"`, `"bad"` or `"unknown"`.
        message: what was seen, one line.
        output: last lines that its process wrote.
    """

    answer: str
    message: str
    output: str = ""


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The worker could not open its device."""

    message: str


ToWorker = Request | ProbeRequest
FromWorker = Ready | Replay | ProbeAnswer | Failure
