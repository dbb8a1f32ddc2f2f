"""What the user asked for: the input of the chain of links."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.errors import UsageError
from mpsprobe.knowledge.ops import resolve_release
from mpsprobe.mac.lineup import named
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
        mac: name of the Mac asked about; None: the one at hand, if there is one.
        torch: torch release asked about; None: the installed one.
        macos: macOS asked about.
        fallback: whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set there; None: as it is here.
    """

    model: str | None = None
    device: str = "auto"
    profile: str | None = None
    revision: str | None = None
    offline: bool = False
    ignore_pins: bool = False
    mac: str | None = None
    torch: str | None = None
    macos: str | None = None
    fallback: bool | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UsageError(f"--device {self.device}: no such device.", f"One of {', '.join(DEVICES)}.")
        if self.torch is not None:
            resolve_release(self.torch)
        if self.mac is not None:
            named(self.mac, self.macos)
