"""Profiles: one TOML file for each model that states how it is loaded, run and judged.

Importing this module does not import torch.
"""

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
#: The group of entry points with which other packages ship profiles.
GROUP = "mpsprobe.profiles"
_log = logging.getLogger(__name__)

#: The default time limit of each phase in seconds, including the set-up of its links.
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
        name: The key in the outputs that the adapter extracts.
        kind: `"tensor"` or `"text"`.
        shape: The expected sizes; a string names a size that may have any value (`"n"`). None accepts any shape.
        min: The smallest allowed value of every element, in `unit`; None for no bound.
        max: The largest allowed value of every element, in `unit`; None for no bound.
        unit: The unit for readers, such as `"m"`.
        nonempty: Whether a text must not be empty.
    """

    name: str
    kind: str = "tensor"
    shape: list[int | str] | None = None
    min: float | None = None
    max: float | None = None
    unit: str = ""
    nonempty: bool = False


class FurtherRepository(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository that a target reads in addition to its own; its weights are not fetched.

    Attributes:
        repo: The id of the repository.
        config_key: The key of the target's config.json whose value replaces `repo`; `""` for none.
    """

    repo: str
    config_key: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one model (or one family) is loaded, run and judged.

    Attributes:
        name: The file name without `.toml`.
        title: The title for readers.
        adapter: `package.module:Class` of the adapter (see `models.adapter`), or a file beside the profile with the
            functions of a target (docs/targets.md).
        models: The repo ids that this profile is for.
        architectures: The classes in a config.json that this profile is for.
        markers: Files whose presence in a model folder selects this profile.
        builder: `package.module:function` that makes the target's folder on this machine and returns its path; `""`
            for targets that are downloaded or exist already.
        stand_in: `package.module:function` that makes a folder with the config of `models` and returns its path,
            for uses without weights where the repository cannot be fetched; `""` for none.
        dtype: The dtype in which weights are loaded: `"bfloat16"`, `"auto"` and so on.
        attention: The attn_implementation; `""` for the default of the class.
        autocast: The dtype of an autocast region around inference; `""` for none. The region is that of the device;
            `"cpu:bfloat16"` is one of the CPU, which does not affect ops on the device. With `"parts:bfloat16"` the
            adapter opens its own regions around parts that need one.
        parts: The parts in such regions, for readers: `"generation and the flow, each by itself"`.
        requires: The requirement strings (PEP 508) that the model states.
        python: The version specifier of the model's Python.
        package: The distribution whose metadata adds requirements when it is installed.
        repositories: Further repositories whose config, tokenizer and processor the target reads.
        sample: The parameters of the adapter's sample.
        inference: The parameters of the adapter's inference, such as max_new_tokens.
        outputs: The outputs that inference must yield.
        parity: The largest accepted difference from the float32 CPU reference, relative to the reference's own
            scale, by output name (`"*"` for the rest).
        limits: The time limits in seconds by phase name.
        samples: The number of inferences in the owner's plan, where the user states none.
        perturbations: The number of further inferences on altered samples in that plan.
        asks: The questions of the checklist that other targets do not have.
        cpu_threads: The number of threads of ops on the CPU; 0 for torch's own choice. It is for models whose ops
            are too small to share, where a second thread costs as much CPU time as the first without saving any.
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
        """Return whether the profile names parts around which its adapter can open autocast regions."""
        return bool(self.parts) or self.autocast.startswith("parts:")

    def autocast_words(self, choice: str) -> str:
        """Return words for a choice of autocast: `"autocast to bfloat16 around inference"`, or that there is none."""
        kind, dtype = split_autocast(choice)
        if not dtype:
            return "no autocast around inference"
        around = (self.parts or "parts of inference") if kind == "parts" else "inference"
        return f"autocast{' of the CPU' if kind == 'cpu' else ''} to {dtype} around {around}"

    def limit(self, phase: Phase) -> float:
        """Return the time limit in seconds of one check of a phase."""
        return self.limits.get(phase, DEFAULT_LIMITS[phase])

    @property
    def file(self) -> Path | None:
        """Return the file with the functions of a target that takes the place of an adapter class; None for a class."""
        return Path(self.adapter) if self.adapter.endswith(".py") else None


def names() -> list[str]:
    """Return the sorted names of mpsprobe's own profiles and of the readable ones that other packages ship."""
    return sorted({*_own(), *(name for name, one in _plugged().items() if isinstance(one, Profile))})


def load(name_or_path: str | Path) -> Profile:
    """Load a profile: a `.toml` file by its path, or one of mpsprobe's or another package's by name.

    Raises:
        ProfileError: There is no such profile, or its TOML is malformed or has an unknown or ill-typed key (the
            message names file and key).
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
    """Return the profiles of other packages by name, or the error of one that cannot be read.

    An entry point of the group names the profile and the package that holds NAME.toml; the package is located but
    not imported. Each error is logged as a warning, once in a process.
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
