"""The messages to and from the worker that replays op uses, and how they are sent: a length, then MessagePack.

JSON has no NaN and no infinity. Nothing imports torch, because both sides import this.
"""

from __future__ import annotations

import enum
import os
import select
import struct
import time
from typing import Any, TypeVar

import msgspec

from mpsprobe.run import OpUse


class ReplayOutcome(str, enum.Enum):
    """What a replay found. Where several outcomes apply, it is the last in this order.

    There is one exception: a fallback or varying results count more than a missing reference (`UNKNOWN`).
    """

    NATIVE = "native"  #: ran, and its values agree with the reference
    SLOWER = "slower"  #: ran and agrees, but the CPU of this machine is faster
    FALLBACK = "fallback"  #: the CPU computed it
    VARIES = "varies"  #: two runs with the same inputs and the same seed differ
    UNKNOWN = "unknown"  #: not replayed, or there is no reference
    WRONG = "wrong"  #: ran, and its values do not agree
    NAN = "nan"  #: NaN or infinity where the reference has a number
    RAISES = "raises"  #: a Python exception that the CPU does not raise for the same inputs
    FAULT = "fault"  #: the GPU reported a fault that PyTorch did not pass on
    HANGS = "hangs"  #: did not end within its limit
    CRASHED = "crashed"  #: its process died


class Setup(msgspec.Struct, frozen=True):
    """The first message to a worker: the device, and its rules.

    Attributes:
        device: `"mps"`, `"emulated"`, `"cuda"` or `"cpu"`.
        torch: The torch release of the emulated Mac; see `run.Mac`.
        macos: The macOS version of the emulated Mac; None when unknown.
        memory_gb: The memory of the emulated Mac in GiB; None when unknown.
        fallback: Whether the fallback variable is set on the emulated Mac.
        threads: The number of CPU threads of an op; 0 for torch's own choice.
        memory_bytes: The bytes that one op use may allocate in the worker.
    """

    device: str
    torch: str
    macos: str | None
    memory_gb: float | None
    fallback: bool
    threads: int
    memory_bytes: int


class Request(msgspec.Struct, frozen=True, tag="replay"):
    """A request to replay one op use, with the seed of its inputs."""

    use: OpUse
    seed: int


class ProbeRequest(msgspec.Struct, frozen=True, tag="probe"):
    """A request to run one advisory's probe."""

    name: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker has imported torch and opened its device."""


class ElementComparison(msgspec.Struct, frozen=True):
    """The comparison of one result of an op with the reference.

    Attributes:
        output: The index of the result, from 0.
        dtype: The dtype of the result.
        reference: The dtype in which the reference was computed.
        difference: The largest |device - reference| over the elements where both are finite.
        noise: The same for the CPU in the op's own dtype, which is the effect of rounding; None when the CPU cannot
            compute it.
        scale: The largest |reference|.
        rtol: The relative tolerance: an element agrees when |device - reference| <= atol + rtol * |reference|.
        atol: The absolute tolerance.
        off: The number of elements that do not agree.
        not_finite: The number of elements that are NaN or infinite where the reference, in the op's dtype, is a
            number.
        elements: The number of elements.
        worst: The place of the largest difference with both values: `"[0, 3]: 1.5 instead of 0.7"`.
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
        """Return whether rounding explains the difference: it is at most four times the CPU's own in this dtype."""
        return self.noise is not None and self.difference <= _NOISE_FACTOR * self.noise

    @property
    def agrees(self) -> bool:
        """Return whether every element agrees, or differs by no more than rounding explains."""
        return not self.not_finite and (not self.off or self.excused)


#: Another order of additions may have several times the rounding error.
_NOISE_FACTOR = 4.0


class CallTiming(msgspec.Struct, frozen=True):
    """The time of one synchronised call in seconds.

    Attributes:
        device_s: The time on the device.
        cpu_s: The time on this machine's CPU with the same shapes and dtype; None when the CPU cannot compute it.
        launch_s: The time of the smallest op on the device. A call that takes no more than three times as long mostly
            waits for the host.
    """

    device_s: float
    cpu_s: float | None
    launch_s: float

    @property
    def slower(self) -> bool:
        """Return whether the device takes over 1.2 times the CPU's time, and over three times that of a launch."""
        return (
            self.cpu_s is not None
            and self.device_s > _SLOWER * self.cpu_s
            and self.device_s > _LAUNCHES * self.launch_s
        )


_SLOWER, _LAUNCHES = 1.2, 3.0


class Replay(msgspec.Struct, tag="answer", kw_only=True):
    """The results of replaying one op use.

    Attributes:
        outcome: The outcome; see `ReplayOutcome` for which one where several apply.
        message: One line that explains it; empty for a plain pass.
        error: The whole text of the exception; empty for none.
        comparisons: One comparison for each tensor result that has elements and one correct value.
        compared: The reason why there are no comparisons; empty when there are.
        repeatable: Whether two runs gave equal values (see `compare.same_bits`); None when that was not tested.
        fallbacks: The ops that the CPU computed.
        copied_bytes: The least number of bytes that one call copies between device and host because of that.
        timing: The time of a call, where it was measured.
        output: The last lines of output of the op's process.
        signal: The signal or exit status that ended its process; empty when it answered.
        spent_s: The wall time of the whole replay in seconds; 0 when it ended early.
        spoilt: Whether the worker must be replaced, because it ran out of memory.
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
    """What a probe found on a device.

    Attributes:
        answer: `"ok"`, `"bad"` or `"unknown"`.
        message: What was observed, in one line.
        output: The last lines of output of its process.
    """

    answer: str
    message: str
    output: str = ""


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """The worker could not open its device."""

    message: str


ToWorker = Request | ProbeRequest
FromWorker = Ready | Replay | ProbeAnswer | Failure


_Message = TypeVar("_Message")
_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class ClosedError(Exception):
    """The other side has closed the pipe."""


def send(fd: int, message: Any) -> None:
    """Write one message to a pipe, preceded by its length.

    Raises:
        ClosedError: The other side has closed the pipe.
    """
    body = _encoder.encode(message)
    data = memoryview(_LENGTH.pack(len(body)) + body)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError as gone:
        raise ClosedError from gone


def receive(fd: int, kind: type[_Message] | Any) -> Any:
    """Wait for one message from a pipe, and return it decoded as `kind`.

    Raises:
        ClosedError: The other side has closed the pipe.
    """
    (length,) = _LENGTH.unpack(_exactly(fd, _LENGTH.size))
    return msgspec.msgpack.decode(_exactly(fd, length), type=kind)


def readable(fd: int, seconds: float) -> bool:
    """Return whether `fd` becomes readable within `seconds`."""
    return bool(select.select([fd], [], [], max(0.0, seconds))[0])


def _exactly(fd: int, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = os.read(fd, count - len(parts))
        if not part:
            raise ClosedError
        parts += part
    return parts


def deadline(seconds: float) -> float:
    """Return the moment `seconds` from now on the monotonic clock, for use with `left`."""
    return time.monotonic() + seconds


def left(until: float) -> float:
    """Return the seconds until a deadline, never negative."""
    return max(0.0, until - time.monotonic())
