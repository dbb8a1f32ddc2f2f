"""The environment of a model on a Mac, by torch release: macOS, Python, autocast, APIs, runners, CUDA packages.

The data is in `data/environment.toml`, `data/runners.toml` and `data/packages.toml`, each fact with its source.
Environment variables are in `mpsprobe.knowledge.variables`.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from pathlib import Path

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.knowledge._pasted import macos_version, torch_release
from mpsprobe.knowledge.variables import Problem, Variable, check_variables

__all__ = [
    "NeedsCuda",
    "Problem",
    "ReleaseEnvironment",
    "ReleaseFact",
    "Runner",
    "Variable",
    "api",
    "autocast",
    "check_variables",
    "grad_scaler",
    "intel",
    "macos_allows",
    "minimum_macos",
    "package",
    "pythons",
    "release",
    "release_of_commit",
    "releases",
    "runner",
    "runners",
]

DATA = Path(__file__).parent / "data"


class ReleaseFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fact about one release of torch, with its source.

    Attributes:
        ok: Whether it works; None when unknown.
        message: What happens, in one or two sentences.
        source: A link, or "wheel" (read in the wheels), or "" when `ok` is None.
    """

    ok: bool | None
    message: str
    source: str = ""


class ReleaseEnvironment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The systems and Pythons that one minor release of torch supports on a Mac.

    Attributes:
        torch: The minor release, such as `2.8`.
        macos: The lowest macOS on which it opens the MPS device.
        wheel_macos: The lowest macOS on which pip installs its arm64 wheel.
        python: The Python versions of its arm64 wheels on PyPI.
        intel: Whether there are wheels for Intel Macs.
        commits: The commit from which each full version was built.
        macos_note: A warning about misleading statements on `macos`.
    """

    torch: str
    macos: str
    wheel_macos: str
    python: tuple[str, ...]
    intel: bool
    commits: dict[str, str]
    macos_note: str = ""


class Autocast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The behaviour of `torch.autocast("mps")` in a range of releases; `data/environment.toml` describes the fields."""

    torch: str
    dtypes: tuple[str, ...]
    otherwise: str
    source: str
    dtype_macos: dict[str, str] = {}


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Python name: the release that introduced it, the first one in which it is correct, and its alternative."""

    name: str
    source: str
    since: str = ""
    good: str = ""
    note: str = ""
    instead: str = ""


class Runner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of macOS machine that a CI service hosts.

    Attributes:
        labels: The `runs-on` labels of GitHub.
        computes: `yes`, `no`, `wrong` (results cannot be trusted) or `no-gpu`.
        works: What works there, in one or two sentences.
        fails: What fails there, in one or two sentences.
        advice: What to do, in one or two sentences.
        seen: The month of the last observation.
        sources: The links to the sources.
        gpu: The name of the Metal device there.
    """

    labels: tuple[str, ...]
    computes: str
    works: str
    fails: str
    advice: str
    seen: str
    sources: tuple[str, ...]
    gpu: str = ""


class NeedsCuda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package that needs CUDA, with the reason and an alternative for a Mac."""

    names: tuple[str, ...]
    why: str
    instead: str
    source: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    release: tuple[ReleaseEnvironment, ...]
    autocast: tuple[Autocast, ...]
    api: tuple[Api, ...]
    variable: tuple[Variable, ...]
    package: tuple[NeedsCuda, ...]


class _Runners(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runner: tuple[Runner, ...]


@lru_cache(maxsize=1)
def _data() -> _File:
    return toml.load(DATA / "environment.toml", _File)


def releases() -> tuple[ReleaseEnvironment, ...]:
    """Return all known releases, oldest first."""
    return _data().release


def release(torch: str) -> ReleaseEnvironment | None:
    """Return the facts about the minor release that the version `torch` belongs to; None for one outside the table.

    Raises:
        UsageError: `torch` is not a version.
    """
    version = torch_release(torch)
    name = f"{version.major}.{version.minor}"
    return next((entry for entry in releases() if entry.torch == name), None)


def release_of_commit(commit: str) -> str | None:
    """Return the full version built from `commit`, which error messages quote from torch 2.6 on; None when unknown.

    Args:
        commit: At least 7 hexadecimal digits from its beginning; fewer give None.
    """
    if len(commit) < 7:
        return None
    return next(
        (
            version
            for entry in releases()
            for version, built in entry.commits.items()
            if built.startswith(commit.lower())
        ),
        None,
    )


def minimum_macos(torch: str) -> str | None:
    """Return the lowest macOS on which that release opens the MPS device, such as `14.0`; None when unknown."""
    found = release(torch)
    return found.macos if found else None


def macos_allows(torch: str, macos: str) -> ReleaseFact:
    """Return whether that release opens the MPS device on that macOS; `ok` is None for a release outside the table.

    The message of a negative answer says what to install.

    Raises:
        UsageError: `torch` or `macos` is not a version.
    """
    found = release(torch)
    if found is None:
        return ReleaseFact(None, f"No macOS minimum is known for torch {torch}.")
    if macos_version(macos) >= Version(found.macos):
        return ReleaseFact(True, f"torch {found.torch} finds MPS from macOS {found.macos} on.", "wheel")
    older = [entry for entry in releases() if Version(entry.macos) <= macos_version(macos)]
    fix = f"The last release for macOS {macos} is torch {older[-1].torch}." if older else "Update macOS."
    text = f"torch {found.torch} needs macOS {found.macos}; this is {macos}. {fix} {found.macos_note}"
    return ReleaseFact(False, text.strip(), "wheel")


def pythons(torch: str) -> tuple[str, ...]:
    """Return the Python versions for which PyPI has arm64 wheels of that release; empty when unknown."""
    found = release(torch)
    return found.python if found else ()


def intel(torch: str) -> ReleaseFact:
    """Return whether that release has wheels for Intel Macs; those of 2.2.2 are the last."""
    link = "https://github.com/pytorch/pytorch/issues/161614"
    if torch_release(torch) <= Version("2.2.2"):
        return ReleaseFact(True, "Wheels for Intel Macs exist up to torch 2.2.2.", link)
    return ReleaseFact(False, "Wheels for Intel Macs end at torch 2.2.2; use that, with numpy below 2.", link)


def autocast(torch: str, dtype: str = "float16", macos: str | None = None) -> ReleaseFact:
    """Return whether `torch.autocast("mps", dtype)` casts to the dtype in that release; `ok` is None when unknown.

    Args:
        torch: The release, such as `2.5.1`.
        dtype: `float16`, `bfloat16` and so on, with or without `torch.`.
        macos: The version of macOS; None assumes one that is new enough, and the message names the version that the
            dtype needs.
    """
    name = dtype.removeprefix("torch.")
    version = torch_release(torch)
    for rule in _data().autocast:
        if version not in SpecifierSet(rule.torch):
            continue
        if name not in rule.dtypes:
            return ReleaseFact(
                False, f"torch {version}: autocast('mps', torch.{name}) {rule.otherwise}.", rule.source
            )
        needs = rule.dtype_macos.get(name)
        if needs and macos and macos_version(macos) < Version(needs):
            text = f"torch.{name} in MPS autocast needs macOS {needs}; on {macos} it {rule.otherwise}."
            return ReleaseFact(False, text, rule.source)
        gate = f" from macOS {needs} on" if needs and not macos else ""
        return ReleaseFact(True, f"torch {version} autocasts to {name} on MPS{gate}.", rule.source)
    return ReleaseFact(None, f"Nothing is known about autocast in torch {version}.")


def api(name: str, torch: str) -> ReleaseFact:
    """Return whether a Python name exists and works correctly in that release; `ok` is None for a name without data.

    Args:
        name: The dotted name, such as `"torch.mps.recommended_max_memory"`.
        torch: The release, such as `"2.5.1"`.
    """
    found = next((entry for entry in _data().api if entry.name == name), None)
    if found is None:
        return ReleaseFact(None, f"Nothing is recorded about {name}.")
    version = torch_release(torch)
    instead = f" Use {found.instead}." if found.instead else ""
    note = f" {found.note}" if found.note else ""
    if not found.since:
        return ReleaseFact(False, f"{name} does not exist.{note}{instead}", found.source)
    if version < Version(found.since):
        return ReleaseFact(
            False, f"{name} came with torch {found.since}; this is {version}.{note}{instead}", found.source
        )
    if found.good and version < Version(found.good):
        return ReleaseFact(False, f"{name} is wrong before torch {found.good}.{note}{instead}", found.source)
    return ReleaseFact(True, f"{name} exists since torch {found.since}.", found.source)


def grad_scaler(torch: str) -> ReleaseFact:
    """Return whether `torch.amp.GradScaler("mps")` works in that release."""
    return api("torch.amp.GradScaler('mps')", torch)


def package(name: str) -> NeedsCuda | None:
    """Return the facts about a package that needs CUDA, by its name on PyPI or in an import; None for any other."""
    return next((entry for entry in _data().package if name in entry.names), None)


@lru_cache(maxsize=1)
def runners() -> tuple[Runner, ...]:
    """Return every hosted macOS machine of the data file."""
    return toml.load(DATA / "runners.toml", _Runners).runner


def runner(name: str) -> Runner | None:
    """Return the hosted machine of a GitHub `runs-on` label; None for an unknown one."""
    return next((entry for entry in runners() if name in entry.labels), None)


_PACKAGES = Path(__file__).parent / "data" / "packages.toml"


class CudaMeaning(str, enum.Enum):
    """What an import of a CUDA-only package means on a Mac."""

    OPTIONAL = "optional"  #: the code works without it
    REPLACE = "replace"  #: there is an alternative on a Mac
    BLOCKS = "blocks"  #: the model's code cannot be imported


class CudaPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package whose kernels need CUDA; `data/packages.toml` describes the fields."""

    name: str
    imports: list[str]
    meaning: CudaMeaning
    instead: str
    seen: str
    usable_from: str = ""


class _PackageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: list[CudaPackage]


@lru_cache(maxsize=1)
def cuda_packages() -> tuple[CudaPackage, ...]:
    """Return every CUDA-only package of `data/packages.toml`."""
    return tuple(toml.load(_PACKAGES, _PackageFile, DataError).package)


def cuda_distribution(name: str) -> CudaPackage | None:
    """Return the CUDA-only package with this distribution name; None for any other."""
    wanted = canonicalize_name(name)
    return next((one for one in cuda_packages() if canonicalize_name(one.name) == wanted), None)


def cuda_import(module: str) -> CudaPackage | None:
    """Return the CUDA-only package that a module belongs to, by its top-level name; None for any other."""
    top = module.partition(".")[0]
    return next((one for one in cuda_packages() if top in one.imports), None)


def wheels_of(torch: str) -> str:
    """Return for which Macs and Pythons a torch release has wheels, as two sentences."""
    return f"torch {torch} has arm64 wheels for Python {', '.join(pythons(torch))}. " + (
        "Wheels for Intel Macs exist for it." if intel(torch).ok else "It has none for Intel Macs."
    )
