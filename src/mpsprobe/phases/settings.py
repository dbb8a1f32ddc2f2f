"""What the user asked for: the input of the chain of links."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mpsprobe.errors import UsageError
from mpsprobe.knowledge.ops import resolve_release
from mpsprobe.mac.lineup import named
from mpsprobe.models.targets import Wanted, check
from mpsprobe.run import DEVICES

#: Fields that may be files.
_FILES = ("model", "profile", "config")


@dataclass(frozen=True)
class Settings:
    """One invocation's wishes.

    Attributes:
        model: repo id, local folder, class path, or None for the default target.
        device: one of `DEVICES`.
        profile: name of a profile, path of a user's own, or None to choose by the model.
        revision: commit, tag or branch of a repo id.
        offline: ask no hub.
        ignore_pins: go on although requirements are not met.
        mac: name of the Mac asked about; None: the one at hand, if there is one.
        torch: torch release asked about; None: the installed one.
        macos: macOS asked about.
        fallback: whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set there; None: as it is here.
        config: JSON file for a class path.
        random_init: random weights, built from the config alone.
        shrink: with fewer layers; only with `random_init`.
        trust_remote_code: run the repository's own code.
        dtype: of the weights, in place of the profile's.
        new_tokens: that a generating model makes, in place of the profile's.
        autocast: around inference, in place of the profile's: `"none"`, a dtype, or `"cpu:DTYPE"`.
        keep_going: on the virtual device, go on after what a Mac refuses, and list all of it.
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
    config: str | None = None
    random_init: bool = False
    shrink: bool = False
    trust_remote_code: bool = False
    dtype: str | None = None
    new_tokens: int | None = None
    autocast: str | None = None
    keep_going: bool = False

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise UsageError(f"--device {self.device}: no such device.", f"One of {', '.join(DEVICES)}.")
        if self.torch is not None:
            resolve_release(self.torch)
        if self.mac is not None:
            named(self.mac, self.macos)
        if self.keep_going and self.device not in ("auto", "emulated"):
            raise UsageError(
                f"--keep-going: {self.device} raises at the first failure, and cannot go on.",
                "It goes with --device emulated.",
            )
        check(self.wanted)

    @property
    def wanted(self) -> Wanted:
        """What of this is about the target."""
        return Wanted(
            model=self.model,
            profile=self.profile,
            config=Path(self.config).expanduser() if self.config is not None else None,
            revision=self.revision,
            offline=self.offline,
            weightless=self.random_init,
            shrink=self.shrink,
            trust_remote_code=self.trust_remote_code,
            dtype=self.dtype,
            new_tokens=self.new_tokens,
            autocast=self.autocast,
        )

    def arguments(self) -> list[str]:
        """The same as options of pytest, for a child process; files by their whole paths."""
        words: list[str] = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--mpsprobe-{field.name.replace('_', '-')}"
            if value is None or (value is False and field.name != "fallback"):
                continue
            if field.name == "fallback":
                words += [option, str(int(value))]
            elif value is True:
                words.append(option)
            else:
                words += [option, _whole(str(value)) if field.name in _FILES else str(value)]
        return words


def _whole(value: str) -> str:
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value
