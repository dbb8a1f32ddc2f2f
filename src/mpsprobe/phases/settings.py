"""What the user asked for: the input of the chain of links."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.errors import UsageError
from mpsprobe.run import DEVICES


@dataclass(frozen=True)
class Settings:
    """One invocation's wishes.

    Attributes:
        model: repo id, local folder, or None for the default target.
        device: one of `DEVICES`.
        profile: name of a profile, path of a user's own, or None to choose by the model.
        revision: commit, tag or branch of a repo id.
        offline: ask no hub.
        ignore_pins: go on although requirements are not met.
    """

    model: str | None = None
    device: str = "auto"
    profile: str | None = None
    revision: str | None = None
    offline: bool = False
    ignore_pins: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UsageError(f"--device {self.device}: no such device.", f"One of {', '.join(DEVICES)}.")
