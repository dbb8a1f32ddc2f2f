"""Profiles: one TOML file a model, saying how it is loaded, run and judged. Read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml
from mpsprobe.errors import ProfileError
from mpsprobe.run import Phase

_DIRECTORY = Path(__file__).parent / "profiles"

#: Seconds a phase may take (set-up of its links included) where a profile does not say otherwise.
DEFAULT_LIMITS: dict[Phase, float] = {
    Phase.AVAILABILITY: 120,
    Phase.PINS: 60,
    Phase.DOWNLOAD: 4 * 3600,
    Phase.TRANSFER: 900,
    Phase.DATA: 300,
    Phase.INFERENCE: 1800,
    Phase.OPS: 120,
    Phase.BENCHMARK: 900,
}


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one named output of the target's inference must hold.

    Attributes:
        name: key in what the adapter extracts.
        kind: `"tensor"` or `"text"`.
        shape: expected sizes; a string names a size that may be anything (`"n"`).
        min, max: closed bounds of every element, in `unit`.
        unit: for people: `"m"`.
        nonempty: a text must not be empty.
    """

    name: str
    kind: str = "tensor"
    shape: list[int | str] | None = None
    min: float | None = None
    max: float | None = None
    unit: str = ""
    nonempty: bool = False


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one model (or one family) is loaded, run and judged.

    Attributes:
        name: file name without `.toml`.
        title: for people.
        adapter: `package.module:Class` of the adapter (see `models.adapter`).
        models: repo ids this profile is for.
        architectures: classes named by a config.json that this profile is for.
        markers: files whose presence in a model folder says that this profile is for it.
        builder: `package.module:function` that makes the target's folder on this machine and returns its
            path; `""` for targets that are downloaded or already there.
        dtype: what weights are loaded in: `"bfloat16"`, `"auto"` ...
        attention: attn_implementation; `""` leaves the class its own default.
        autocast: dtype of an autocast region around inference; `""` for none. The region is the device's;
            `"cpu:bfloat16"` is one of the CPU, which says nothing to ops on the device.
        requires: requirement strings (PEP 508) the model states.
        python: version specifier of the model's Python.
        package: distribution whose own metadata adds requirements, when it is installed.
        sample: parameters of the adapter's sample.
        inference: parameters of the adapter's inference, such as max_new_tokens.
        outputs: what inference must yield.
        parity: largest accepted difference from the float32 CPU reference, relative to the reference's
            own scale, by output name (`"*"` for the rest).
        limits: seconds by phase name.
        cpu_threads: threads of ops on the CPU; 0 leaves torch's own choice. For models whose ops are too
            small to share: the second thread then costs as much CPU time as the first and saves none.
    """

    name: str
    title: str
    adapter: str
    models: list[str] = []
    architectures: list[str] = []
    markers: list[str] = []
    builder: str = ""
    dtype: str = "auto"
    attention: str = "sdpa"
    autocast: str = ""
    requires: list[str] = []
    python: str = ""
    package: str = ""
    sample: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    outputs: list[Output] = []
    parity: dict[str, float] = {}
    limits: dict[Phase, float] = {}
    cpu_threads: int = 0

    def limit(self, phase: Phase) -> float:
        """Seconds that phase may take."""
        return self.limits.get(phase, DEFAULT_LIMITS[phase])


def names() -> list[str]:
    """Names of the profiles in the package."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.toml"))


def load(name_or_path: str | Path) -> Profile:
    """A profile of the package by name, or a user's own by path.

    Raises:
        ProfileError: no such profile, broken TOML, an unknown or ill-typed key (with file and key).
    """
    given = Path(name_or_path)
    path = given if given.suffix == ".toml" else _DIRECTORY / f"{name_or_path}.toml"
    if not path.is_file():
        raise ProfileError(
            f"{name_or_path}: no such profile.", f"Known: {', '.join(names())}; or the path of a .toml file."
        )
    return toml.load(path, Profile, ProfileError)
