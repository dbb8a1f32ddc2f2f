"""Find installed packages that conflict: which is too old or too new for which, and the command that fixes it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import text_of

#: Packages whose requirements on each other decide whether a model can be imported.
STACK = (
    "transformers",
    "diffusers",
    "sentence-transformers",
    "peft",
    "accelerate",
    "timm",
    "lerobot",
    "tokenizers",
    "torchvision",
    "torchaudio",
)
_AMONG = (*STACK, "huggingface-hub", "safetensors", "torch", "numpy")
#: torchvision 0.(N + 15) is the release that is built for torch 2.N (https://pypi.org/project/torchvision/).
_TORCHVISION_AHEAD = 15


@dataclass(frozen=True)
class Mismatch:
    """One package whose installed version does not meet another's requirement.

    Attributes:
        by: The package that requires it, with its version.
        name: The name of the required package.
        required: The version specifier.
        found: The installed version.
    """

    by: str
    name: str
    required: str
    found: str

    def __str__(self) -> str:
        return f"{self.by} requires {self.name} {self.required}, and {self.found} is installed"


def mismatches(names: Iterable[str] = STACK) -> list[Mismatch]:
    """Return the unmet requirements between installed packages of the stack."""
    found = []
    for by in names:
        version = _version(by)
        if version is None:
            continue
        for text in metadata.requires(by) or []:
            try:
                need = Requirement(text)
            except InvalidRequirement:
                continue
            name = _canonical(need.name)
            # markers are evaluated for this machine, on which the import failed
            if name not in _AMONG or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
                continue
            installed = _version(name)
            if installed is not None and not _fits(installed, need.specifier):
                found.append(Mismatch(f"{by} {version}", name, str(need.specifier), installed))
    return found


def fix(found: Iterable[Mismatch]) -> str:
    """Return the one command that makes the packages fit."""
    wanted: dict[str, list[str]] = {}
    for one in found:
        wanted.setdefault(one.name, []).append(one.required)
    if "torch" in wanted:  # torchvision is built for one torch, so it changes and torch stays
        others = sorted({one.by.split()[0] for one in found if one.name == "torch"})
        del wanted["torch"]
        torch = _version("torch") or ""
        for other in others:
            wanted[other] = [_for_torch(other, torch)]
    requirements = [f"{name}{','.join(dict.fromkeys(filter(None, specs)))}" for name, specs in wanted.items()]
    return "python -m pip install " + " ".join(map(shlex.quote, requirements)) if requirements else ""


def explain(problem: BaseException) -> tuple[str, str]:
    """Return the fault of the environment behind an import error, and the command that fixes it; else empty texts.

    Args:
        problem: The error. Conflicting packages count only where the error may come from them.
    """
    text = text_of(problem)
    if "torchvision::nms" in text:
        torch, vision = _version("torch") or "", _version("torchvision") or ""
        wanted = shlex.quote(f"torchvision{_for_torch('torchvision', torch)}")
        return (
            f"torchvision {vision} does not fit the installed torch {torch}: its ops were not built for it.",
            f"python -m pip install --force-reinstall --no-deps {wanted}",
        )
    at_import = (
        isinstance(problem, ImportError) or "Failed to import" in text or "is required for a normal" in text
    )
    if not at_import:
        return "", ""
    found = mismatches()
    named = [
        one
        for one in found
        if one.name.replace("-", "_") in text.replace("-", "_") or one.by.split()[0] in text
    ]
    chosen = named or (found if re.search(r"cannot import name|is required", text) else [])
    if not chosen:
        return "", ""
    return f"Packages do not fit each other: {'; '.join(map(str, chosen))}.", fix(chosen)


def beside_torch(name: str) -> str:
    """Return the command that installs the release of torchvision or torchaudio for the installed torch."""
    return f"python -m pip install {shlex.quote(name + _for_torch(name, _version('torch') or ''))}"


def _for_torch(name: str, torch: str) -> str:
    """Return the version specifier of torchvision or torchaudio for a torch release."""
    found = re.match(r"2\.(\d+)", torch)
    if found is None:
        return ""
    minor = int(found[1])
    return f"==0.{minor + _TORCHVISION_AHEAD}.*" if name == "torchvision" else f"==2.{minor}.*"


def _fits(version: str, specifier: SpecifierSet) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
