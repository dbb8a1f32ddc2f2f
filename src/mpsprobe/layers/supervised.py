"""Run a job in a child process: a Metal abort or a hang ends only the child, and its last module is named."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mpsprobe import launch
from mpsprobe.errors import DataError, HarnessError, MpsprobeError
from mpsprobe.layers.result import Divergence
from mpsprobe.options import Settings
from mpsprobe.supervision.child import Child, Ending
from mpsprobe.trace.flight import read_flight


class Job(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the child is to do: compare a target with a reference, or write a baseline.

    Attributes:
        settings: The options of the run.
        against: The path of a baseline; None for float32 on the CPU.
        local: Whether to measure each module's own error too.
        stages: The stages to run: `"forward"`, `"inference"`.
        output: The path of a baseline to write instead of comparing; None to compare.
    """

    settings: Settings = Settings()
    against: str | None = None
    local: bool = True
    stages: list[str] = msgspec.field(default_factory=lambda: ["forward", "inference"])
    output: str | None = None


class Step(msgspec.Struct, frozen=True, tag="step"):
    """The child begins a step that may take `limit_s` seconds."""

    text: str
    limit_s: float


class Written(msgspec.Struct, frozen=True, tag="written"):
    """The child's answer after writing a baseline.

    Attributes:
        path: The path of the baseline.
        target: The name of the model.
        device: The device that it ran on.
        dtype: The coarsest floating-point dtype in which it computed.
        weights: The digest of the weights.
        size: The size of the file in bytes.
        calls: The number of module calls by stage.
        noise: What the noise was measured with; `""` when it was not.
        notes: Sentences about what it lacks.
    """

    path: str
    target: str
    device: str
    dtype: str
    weights: str
    size: int
    calls: dict[str, int]
    noise: str
    notes: list[str] = []


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The child's answer after a comparison."""

    divergence: Divergence


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child's answer when it could not do the job.

    Attributes:
        what: What is wrong, as in `MpsprobeError`.
        hint: What to do about it, as in `MpsprobeError`.
        exit_code: The exit code, as in `MpsprobeError`.
        output: The last lines of a traceback in the target's code.
    """

    what: str
    hint: str
    exit_code: int
    output: str = ""


Message = Step | Written | Found | Failed


#: The time limit in seconds for the child to begin; importing torch on a cold machine takes long.
_START_S = 300.0
_OUTPUT_LINES = 25

_decoder = msgspec.json.Decoder(Message)


class JobFailedError(MpsprobeError):
    """The child could not do the job; the exit code is that of its error."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.what, failed.hint)
        self.exit_code = failed.exit_code


class JobDiedError(MpsprobeError):
    """The child crashed or hung, which is a finding about the target on that device, like a crashed check."""

    exit_code = 5


class JobInterruptedError(MpsprobeError):
    """The user interrupted the job, so there is no answer."""

    exit_code = 130


def run(job: Job, on_step: Callable[[str], None]) -> Found | Written:
    """Run a job in a child process, and return the child's answer.

    Args:
        job: The job.
        on_step: A function that is called with each step as it begins.

    Raises:
        JobFailedError: The target, its device or the baseline cannot be used.
        JobDiedError: The child crashed or hung; the message names the step and the module in flight.
        JobInterruptedError: The user interrupted the job.
        HarnessError: The child ended with an error of mpsprobe and without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="mpsprobe-layers-") as name:
        folder = Path(name)
        return _Follower(folder, on_step).run(job)


class _Follower:
    """The parent's view of a child: its messages, its step and the time that it has left."""

    def __init__(self, folder: Path, on_step: Callable[[str], None]) -> None:
        self._messages = folder / "messages.jsonl"
        self._flight = folder / "flight"
        self._folder = folder
        self._on_step = on_step
        self._step = Step("starting", _START_S)
        self._answer: Found | Written | Failed | None = None
        self._since = time.monotonic()
        self._offset = 0

    def run(self, job: Job) -> Found | Written:
        job_path = self._folder / "job.json"
        job_path.write_bytes(msgspec.json.encode(job))
        command = launch.python("mpsprobe.layers", *map(str, (job_path, self._messages, self._flight)))
        environment = launch.environment(trusted=job.settings.trust_remote_code)
        child = Child(self._folder, command, environment)
        ending = child.run(self._left)
        self._read()
        if isinstance(self._answer, Failed):
            raise JobFailedError(self._answer)
        if self._answer is None:
            raise self._death(child, ending)
        return self._answer

    def _left(self) -> float:
        self._read()
        return self._step.limit_s - (time.monotonic() - self._since)

    def _read(self) -> None:
        """Handle the messages that the child has completed since the last call."""
        if not self._messages.exists():
            return
        with self._messages.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        lines, newline, _ = data.rpartition(b"\n")
        self._offset += len(lines) + len(newline)
        for line in lines.splitlines():
            message = _decoder.decode(line)
            self._since = time.monotonic()
            if isinstance(message, Step):
                self._step = message
                self._on_step(message.text)
            else:
                self._answer = message

    def _death(self, child: Child, ending: Ending) -> MpsprobeError:
        words = child.last_words(_OUTPUT_LINES)
        if ending.cause == "interrupted":
            return JobInterruptedError(f"Interrupted while {self._step.text}.")
        if ending.cause == "timeout":
            how = f"was stopped at its limit of {self._step.limit_s:g} s"
        elif ending.returncode > 0:
            # Python ended in order with a traceback, so the fault is mpsprobe's.
            last = words.rpartition("\n")[2] or ending.signal
            return HarnessError(
                f"mpsprobe failed while {self._step.text}: {last}", f"Please report it:\n{words}"
            )
        else:
            how = f"was ended by {ending.signal}"
        return JobDiedError(
            f"The comparison {how} while {self._step.text}{self._in_flight()}.",
            f"Its last words:\n{words}" if words else "",
        )

    def _in_flight(self) -> str:
        """Return `, in module PATH (PASS)` for the module that was running; `""` when the flight record shows none."""
        try:
            last = read_flight(self._flight, last=64)
        except DataError:
            return ""
        running = [one for one in last if not one.ended]
        return (
            f", in module {running[-1].module or 'of the model itself'} ({running[-1].op})" if running else ""
        )
