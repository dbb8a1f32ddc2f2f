"""Profiles: one TOML file a model that states how it is loaded, run and judged. Read without torch."""

from __future__ import annotations

import functools
import importlib.util
import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mpsprobe import toml
from mpsprobe.errors import ProfileError
from mpsprobe.options import AUTOCAST, is_autocast, split_autocast
from mpsprobe.run import Phase

_DIRECTORY = Path(__file__).parent / "profiles"
#: Entry points by which other packages ship profiles.
GROUP = "mpsprobe.profiles"
_log = logging.getLogger(__name__)

#: Seconds a phase may take (set-up of its links included) where a profile does not say otherwise.
DEFAULT_LIMITS: dict[Phase, float] = {
    Phase.AVAILABILITY: 120,
    Phase.PINS: 60,
    Phase.DOWNLOAD: 4 * 3600,
    Phase.TRANSFER: 900,
    Phase.DATA: 300,
    Phase.INFERENCE: 1800,
    Phase.TRAINING: 1800,
    Phase.OPS: 120,
    Phase.BENCHMARK: 900,
}


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The requirements on one named output of the target's inference.

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


class FurtherRepository(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository that a target reads beside its own; its weights are not fetched.

    Attributes:
        repo: its id.
        config_key: key of the target's config.json whose value names it, in place of `repo`; `""` for none.
    """

    repo: str
    config_key: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one model (or one family) is loaded, run and judged.

    Attributes:
        name: file name without `.toml`.
        title: for people.
        adapter: `package.module:Class` of the adapter (see `models.adapter`), or a file with the functions of a
            target (docs/targets.md), beside the profile.
        models: repo ids this profile is for.
        architectures: classes named by a config.json that this profile is for.
        markers: files whose presence in a model folder says that this profile is for it.
        builder: `package.module:function` that makes the target's folder on this machine and returns its
            path; `""` for targets that are downloaded or already there.
        stand_in: `package.module:function` that makes a folder with the config of `models` and returns its path,
            for uses without weights where the repository cannot be had; `""` for none.
        dtype: what weights are loaded in: `"bfloat16"`, `"auto"` ...
        attention: attn_implementation; `""` leaves the class its own default.
        autocast: dtype of an autocast region around inference; `""` for none. The region is the device's;
            `"cpu:bfloat16"` is one of the CPU, which says nothing to ops on the device. With
            `"parts:bfloat16"` the adapter opens regions of its own, around those parts that want one.
        parts: what those regions are around, for people: `"generation and the flow, each by itself"`.
        requires: requirement strings (PEP 508) the model states.
        python: version specifier of the model's Python.
        package: distribution whose own metadata adds requirements, when it is installed.
        repositories: further repositories whose config, tokenizer and processor the target reads.
        sample: parameters of the adapter's sample.
        inference: parameters of the adapter's inference, such as max_new_tokens.
        outputs: what inference must yield.
        parity: largest accepted difference from the float32 CPU reference, relative to the reference's
            own scale, by output name (`"*"` for the rest).
        limits: seconds by phase name.
        samples, perturbations: the plan that recommendations count where the user names none.
        asks: questions of the checklist that other targets do not have.
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
    stand_in: str = ""
    dtype: str = "auto"
    attention: str = "sdpa"
    autocast: str = ""
    parts: str = ""
    requires: list[str] = []
    python: str = ""
    package: str = ""
    repositories: list[FurtherRepository] = []
    sample: dict[str, Any] = {}
    inference: dict[str, Any] = {}
    outputs: list[Output] = []
    parity: dict[str, float] = {}
    limits: dict[Phase, float] = {}
    samples: int = 1
    perturbations: int = 0
    asks: list[str] = []
    cpu_threads: int = 0

    def __post_init__(self) -> None:
        if self.autocast and not is_autocast(self.autocast):
            raise ValueError(f"autocast {self.autocast!r}: no such choice; it is {AUTOCAST}")
        for text in (*self.requires, *filter(None, [self.package])):
            try:
                Requirement(text)
            except InvalidRequirement:
                raise ValueError(
                    f"{text!r}: no requirement; write it as pip takes it: 'numpy>=1.26'"
                ) from None
        try:
            SpecifierSet(self.python)
        except InvalidSpecifier:
            raise ValueError(
                f"python {self.python!r}: no range of versions, such as '>=3.10,<3.14'"
            ) from None

    @property
    def casts_parts(self) -> bool:
        """Whether its adapter knows parts to open an autocast region around."""
        return bool(self.parts) or self.autocast.startswith("parts:")

    def autocast_words(self, choice: str) -> str:
        """Describe a choice of autocast for people; `""` is none."""
        kind, dtype = split_autocast(choice)
        if not dtype:
            return "no autocast around inference"
        around = (self.parts or "parts of inference") if kind == "parts" else "inference"
        return f"autocast{' of the CPU' if kind == 'cpu' else ''} to {dtype} around {around}"

    def limit(self, phase: Phase) -> float:
        """Return the time limit of a phase, in seconds."""
        return self.limits.get(phase, DEFAULT_LIMITS[phase])

    @property
    def file(self) -> Path | None:
        """The user's file that replaces an adapter class; None for a class."""
        return Path(self.adapter) if self.adapter.endswith(".py") else None


def names() -> list[str]:
    """Return the names of the profiles in the package, and of readable ones that other packages ship."""
    return sorted({*_own(), *(name for name, one in _plugged().items() if isinstance(one, Profile))})


def load(name_or_path: str | Path) -> Profile:
    """Load a profile by name, of this package or another, or a user's own by path.

    Raises:
        ProfileError: no such profile, broken TOML, an unknown or ill-typed key (with file and key).
    """
    given, name = Path(name_or_path), str(name_or_path)
    if given.suffix == ".toml" and given.is_file():
        return _read(given)
    if name in _own():
        return _read(_DIRECTORY / f"{name}.toml")
    plugged = _plugged().get(name)
    if plugged is None:
        raise ProfileError(
            f"{name}: no such profile.", f"Known: {', '.join(names())}; or the path of a .toml file."
        )
    if isinstance(plugged, ProfileError):
        raise plugged
    return plugged


def _read(path: Path) -> Profile:
    profile = toml.load(path, Profile, ProfileError)
    if profile.file is None:
        return profile
    file = path.parent.resolve() / profile.file
    if not file.is_file():
        raise ProfileError(f"{path}: adapter {profile.adapter!r}: no such file beside it.")
    return msgspec.structs.replace(profile, adapter=str(file))


def _own() -> set[str]:
    return {path.stem for path in _DIRECTORY.glob("*.toml")}


@functools.cache
def _plugged() -> dict[str, Profile | ProfileError]:
    """Return the profiles of other packages by name, or the error of one that cannot be read, warning once.

    An entry point of the group names the profile and the package that holds NAME.toml; the package is found, and
    not imported.
    """
    found: dict[str, Profile | ProfileError] = {}
    for point in metadata.entry_points(group=GROUP):
        try:
            found[point.name] = _read(_plugged_file(point, {*_own(), *found}))
        except ProfileError as problem:
            by = f" (of {point.dist.name})" if point.dist is not None else ""
            _log.warning("mpsprobe: profile plugin left out%s: %s", by, problem)
            found.setdefault(point.name, problem)
    return found


def _plugged_file(point: metadata.EntryPoint, taken: set[str]) -> Path:
    if point.name in taken:
        raise ProfileError(f"profile {point.name}: another of that name is there already.")
    top, *below = point.value.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    for folder in folders:
        path = Path(folder, *below, f"{point.name}.toml")
        if path.is_file():
            return path
    raise ProfileError(f"profile {point.name}: package {point.value} holds no {point.name}.toml.")
