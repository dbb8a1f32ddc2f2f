"""What the child process of a comparison is asked to do, and how it answers."""

from __future__ import annotations

import msgspec

from mpsprobe.layers.result import Divergence
from mpsprobe.options import Settings


class Job(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One comparison, or one baseline.

    Attributes:
        settings: what is run, where.
        against: path of a baseline; None: float32 on the CPU.
        local: look at each module's own error too.
        stages: `"forward"`, `"inference"`.
        output: write a baseline there instead of comparing.
    """

    settings: Settings = Settings()
    against: str | None = None
    local: bool = True
    stages: list[str] = msgspec.field(default_factory=lambda: ["forward", "inference"])
    output: str | None = None


class Step(msgspec.Struct, frozen=True, tag="step"):
    """The child begins something that may take `limit_s` seconds."""

    text: str
    limit_s: float


class Written(msgspec.Struct, frozen=True, tag="written"):
    """The child's answer: the baseline is there.

    Attributes:
        path: where.
        size: bytes.
        calls: module calls, by stage.
        notes: what it lacks.
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
    """The child's answer: the comparison."""

    divergence: Divergence


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child could not do it.

    Attributes:
        what, hint, exit_code: as in `MpsprobeError`.
        output: last lines of a traceback in the target's code.
    """

    what: str
    hint: str
    exit_code: int
    output: str = ""


Message = Step | Written | Found | Failed
