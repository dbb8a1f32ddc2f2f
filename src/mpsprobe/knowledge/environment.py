"""What surrounds a model on a Mac: macOS, Python, autocast, calls and runners, by torch release.

Data: `data/environment.toml` and `data/runners.toml`, each fact with its source. Environment variables:
`mpsprobe.knowledge.variables`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mpsprobe import toml
from mpsprobe.knowledge._versions import macos_version, torch_release
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
    """A fact about one release.

    Attributes:
        ok: whether it works; None when nothing is known.
        message: what happens, in one or two sentences.
        source: link, or "wheel" (read in the wheels), or "" with `ok` None.
    """

    ok: bool | None
    message: str
    source: str = ""


class ReleaseEnvironment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One torch minor release.

    Attributes:
        torch: `2.8`.
        macos: lowest macOS on which it opens the MPS device.
        wheel_macos: lowest macOS on which pip installs its arm64 wheel.
        python: Python versions of its arm64 wheels on PyPI.
        intel: whether wheels for Intel Macs exist.
        commits: full version -> commit the wheel was built from.
        macos_note: what misleads about `macos`.
    """

    torch: str
    macos: str
    wheel_macos: str
    python: tuple[str, ...]
    intel: bool
    commits: dict[str, str]
    macos_note: str = ""


class Autocast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `torch.autocast("mps")` does in a range of releases."""

    torch: str
    dtypes: tuple[str, ...]
    otherwise: str
    source: str
    dtype_macos: dict[str, str] = {}


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Python name: the release it came with, the one from which it is right, what to use before."""

    name: str
    source: str
    since: str = ""
    good: str = ""
    note: str = ""
    instead: str = ""


class Runner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hosted macOS machine.

    Attributes:
        labels: GitHub `runs-on` labels.
        computes: `yes`, `no`, `wrong` (results cannot be trusted) or `no-gpu`.
        gpu: name of the Metal device there.
        works / fails / advice: one or two sentences each.
        seen: month of the last observation.
        sources: links.
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
    """A package that needs CUDA: why, and what to use on a Mac."""

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
    """All releases known, oldest first."""
    return _data().release


def release(torch: str) -> ReleaseEnvironment | None:
    """Return the minor release that `torch` belongs to; None for one outside the table."""
    version = torch_release(torch)
    name = f"{version.major}.{version.minor}"
    return next((entry for entry in releases() if entry.torch == name), None)


def release_of_commit(commit: str) -> str | None:
    """Return the full version built from `commit` (at least 7 hex digits), which error texts quote from 2.6 on."""
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
    """Lowest macOS on which that release opens the MPS device, such as `14.0`; None when not known."""
    found = release(torch)
    return found.macos if found else None


def macos_allows(torch: str, macos: str) -> ReleaseFact:
    """Whether that release opens the MPS device on that macOS, and what to install when it does not."""
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
    """Python versions for which PyPI has arm64 wheels of that release; empty when not known."""
    found = release(torch)
    return found.python if found else ()


def intel(torch: str) -> ReleaseFact:
    """Whether wheels for Intel Macs exist: they end at 2.2.2."""
    link = "https://github.com/pytorch/pytorch/issues/161614"
    if torch_release(torch) <= Version("2.2.2"):
        return ReleaseFact(True, "Wheels for Intel Macs exist up to torch 2.2.2.", link)
    return ReleaseFact(False, "Wheels for Intel Macs end at torch 2.2.2; use that, with numpy below 2.", link)


def autocast(torch: str, dtype: str = "float16", macos: str | None = None) -> ReleaseFact:
    """Return what `torch.autocast("mps", dtype)` does in that release.

    Args:
        torch: release, such as `2.5.1`.
        dtype: `float16`, `bfloat16`, ... with or without `torch.`.
        macos: the macOS in question; without it the answer names the macOS a dtype needs.
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
    """Whether the Python name (`torch.mps.recommended_max_memory`) exists, and is right, in that release."""
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
    """Whether `torch.amp.GradScaler("mps")` works in that release."""
    return api("torch.amp.GradScaler('mps')", torch)


def package(name: str) -> NeedsCuda | None:
    """Return what is known of a package (its PyPI or import name) that needs CUDA; None for any other."""
    return next((entry for entry in _data().package if name in entry.names), None)


@lru_cache(maxsize=1)
def runners() -> tuple[Runner, ...]:
    """All hosted machines known."""
    return toml.load(DATA / "runners.toml", _Runners).runner


def runner(name: str) -> Runner | None:
    """Return what is known of a GitHub `runs-on` label; None for an unknown one."""
    return next((entry for entry in runners() if name in entry.labels), None)
