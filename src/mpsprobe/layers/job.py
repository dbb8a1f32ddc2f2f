"""What the child process of a comparison is asked to do, and how it answers."""

from __future__ import annotations

import dataclasses

import msgspec

from mpsprobe.layers.result import Divergence
from mpsprobe.phases.settings import Settings


class Job(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One comparison, or one baseline.

    Attributes:
        model, device, profile, revision, offline, mac, torch, macos, fallback, config, random_init, shrink,
            trust_remote_code: as in `phases.settings.Settings`.
        dtype: of the weights, in place of the profile's; None for that.
        against: path of a baseline; None: float32 on the CPU.
        local: look at each module's own error too.
        stages: `"forward"`, `"inference"`.
        output: write a baseline there instead of comparing.
    """

    model: str | None = None
    device: str = "auto"
    profile: str | None = None
    revision: str | None = None
    offline: bool = False
    mac: str | None = None
    torch: str | None = None
    macos: str | None = None
    fallback: bool | None = None
    config: str | None = None
    random_init: bool = False
    shrink: bool = False
    trust_remote_code: bool = False
    dtype: str | None = None
    against: str | None = None
    local: bool = True
    stages: list[str] = msgspec.field(default_factory=lambda: ["forward", "inference"])
    output: str | None = None


def settings_of(job: Job) -> Settings:
    """What the job says of target and device; the dtype is given to its profile later.

    Raises:
        UsageError: its fields do not go together.
    """
    names = {field.name for field in dataclasses.fields(Settings)} - {"dtype"}
    said = {name: value for name, value in msgspec.structs.asdict(job).items() if name in names}
    return Settings(**said, ignore_pins=True)


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
