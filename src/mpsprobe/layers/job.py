"""The job of the child process of a comparison, and its answers."""

from __future__ import annotations

import msgspec

from mpsprobe.layers.result import Divergence
from mpsprobe.options import Settings


class Job(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One comparison, or one baseline.

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
        dtype: The dtype of the weights.
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
