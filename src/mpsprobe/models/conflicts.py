"""Find installed packages that conflict: which is too old or too new for which, and the command that fixes it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.errors import first_line, text_of

#: Packages whose requirements on each other decide whether a model can be imported.
STACK = (
    "transformers",
    "diffusers",
    "sentence-transformers",
    "peft",
    "accelerate",
    "timm",
    "lerobot",
    "kernels",
    "tokenizers",
    "torchvision",
    "torchaudio",
)
_AMONG = (*STACK, "huggingface-hub", "safetensors", "torch", "numpy")
#: torchvision 0.(N + 15) is the release that is built for torch 2.N (https://pypi.org/project/torchvision/).
_TORCHVISION_AHEAD = 15


#: Distributions whose name on PyPI differs from that of their module.
_DISTRIBUTIONS = {
    "bidi": "python-bidi", "bs4": "beautifulsoup4", "cv2": "opencv-python", "dac": "descript-audio-codec",
    "audiotools": "descript-audiotools", "dotenv": "python-dotenv", "fitz": "pymupdf", "git": "GitPython",
    "google": "protobuf", "Levenshtein": "python-Levenshtein", "mpl_toolkits": "matplotlib", "PIL": "pillow",
    "pkg_resources": "setuptools", "pytorch_lightning": "pytorch-lightning", "skimage": "scikit-image",
    "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip


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
    """Return the requirements of some packages that the installed versions of others do not meet.

    Args:
        names: The packages whose requirements are read; those that are not installed are skipped. Only
            requirements on the stack, huggingface-hub, safetensors, torch and NumPy count.
    """
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
    """Return one pip command that makes the packages meet each other's requirements; empty when `found` is.

    The installed torch stays: packages that require another torch are the ones to change.
    """
    wanted: dict[str, list[str]] = {}
    for one in found:
        wanted.setdefault(one.name, []).append(one.required)
    if "torch" in wanted:  # torchvision is built for one torch, so it changes and torch stays
        others = sorted({one.by.split()[0] for one in found if one.name == "torch"})
        del wanted["torch"]
        torch = _version("torch") or ""
        for other in others:
            wanted[other] = [_for_torch(other, torch)]
    for one in found:
        if one.name in wanted and (
            held := _held(one)
        ):  # who requires it gives way, and pip finds its release
            wanted[one.name] = held
            wanted.setdefault(one.by.split()[0], [])
    requirements = [f"{name}{','.join(dict.fromkeys(filter(None, specs)))}" for name, specs in wanted.items()]
    return "python -m pip install " + " ".join(map(shlex.quote, requirements)) if requirements else ""


def _held(one: Mismatch) -> list[str]:
    """Return other packages' requirements on `one.name` that the change which `one` needs would break.

    They accept the installed version, and none of the versions that `one` names.
    """
    wanted = [spec.version for spec in SpecifierSet(one.required)]
    held = []
    for by in STACK:
        for text in (metadata.requires(by) or []) if _version(by) and by != one.by.split()[0] else []:
            need = Requirement(text)
            mine = _canonical(need.name) == one.name and (
                need.marker is None or need.marker.evaluate({"extra": ""})
            )
            if (
                mine
                and _fits(one.found, need.specifier)
                and not any(_fits(v, need.specifier) for v in wanted)
            ):
                held.append(str(need.specifier))
    return held


def explain(problem: BaseException) -> tuple[str, str]:
    """Return what is wrong with the environment behind an error, and the command that fixes it; else empty texts.

    It recognises a torchvision built for another torch, installed packages that do not meet each other's requirements,
    and a package of the stack that raises when it is imported.

    Args:
        problem: The error. Unmet requirements count only where its text or its traceback points to those packages,
            or where a name cannot be imported.
    """
    text = text_of(problem)
    if "torchvision::nms" in text:
        torch, vision = _version("torch") or "", _version("torchvision") or ""
        wanted = shlex.quote(f"torchvision{_for_torch('torchvision', torch)}")
        return (
            f"torchvision {vision} does not fit the installed torch {torch}: its ops were not built for it.",
            f"python -m pip install --force-reinstall --no-deps {wanted}",
        )
    importing = _importing(problem)
    at_import = (
        isinstance(problem, ImportError) or "Failed to import" in text or "is required for a normal" in text
    )
    if not at_import and not importing:
        return "", ""
    found = mismatches()
    named = [
        one
        for one in found
        if one.name.replace("-", "_") in text.replace("-", "_")
        or one.by.split()[0] in text
        or {one.name.replace("-", "_"), one.by.split()[0].replace("-", "_")} <= set(importing)
    ]
    chosen = named or (found if re.search(r"cannot import name|is required", text) else [])
    if not chosen:
        return _unimportable(problem, importing)
    return f"Packages do not fit each other: {'; '.join(map(str, chosen))}.", fix(chosen)


def _importing(problem: BaseException) -> list[str]:
    """Return the packages in the tracebacks of an error and its causes, outermost first; empty without an import."""
    frames: list[str] = []
    seen: BaseException | None = problem
    while seen is not None:
        for frame, _ in traceback.walk_tb(seen.__traceback__):
            frames.append(frame.f_code.co_filename)
        seen = seen.__cause__ or seen.__context__
    if not any(name.startswith("<frozen importlib") for name in frames):
        return []
    found = [Path(name.split("site-packages")[-1][1:]).parts[0] for name in frames if "site-packages" in name]
    return list(dict.fromkeys(found))


def _unimportable(problem: BaseException, importing: list[str]) -> tuple[str, str]:
    """Return a fault and a fix for an installed package of the stack that raises when imported; else empty texts."""
    first = next((name for name in importing if _canonical(name) in STACK), None)
    if first is None or isinstance(problem, ModuleNotFoundError):
        return "", ""
    root = problem
    while (before := root.__cause__ or root.__context__) is not None:
        root = before
    others = sorted(
        {
            f"{_canonical(name)} {found}"
            for name in importing[importing.index(first) :]
            if (found := _version(_canonical(name)))
        }
    )
    return (
        f"The installed {_canonical(first)} cannot be imported: {type(root).__name__}: {first_line(root)}. "
        f"The import goes through {', '.join(others)}.",
        f"python -m pip install --upgrade {_canonical(first)}",
    )


def absent(problem: ImportError) -> str:
    """Return advice for an import that fails because a package, a module of it, or a name in it is missing."""
    name = problem.name or ""
    top = name.partition(".")[0]
    if not top:
        return "Install it, or put its folder on PYTHONPATH."
    if "." in name and isinstance(problem, ModuleNotFoundError):
        return _part(name)
    folder = _folder(top) if not isinstance(problem, ModuleNotFoundError) else None
    if folder is not None:
        return _another_release(name, folder)
    if top in ("torchvision", "torchaudio"):
        return f"Install the release that fits the installed torch: {beside_torch(top)}."
    if top in _DISTRIBUTIONS:
        return f"python -m pip install {_DISTRIBUTIONS[top]}"
    return f"Install the package of {top!r}, or put its folder on PYTHONPATH."


def _part(name: str) -> str:
    """Return advice for a missing module of a package: build it, install the package, or use another release."""
    top = name.partition(".")[0]
    folders = [Path(entry, top) for entry in sys.path]
    sources = next((one for one in folders if (one / "setup.py").is_file() or any(one.glob("*.pyx"))), None)
    if sources is not None:
        return f"Build it first, as its project says: {sources} holds the sources of {name}."
    folder = _folder(top)
    if folder is None:
        return f"Install the package of {top!r}, or put its folder on PYTHONPATH."
    return _another_release(name, folder)


def _another_release(name: str, folder: Path) -> str:
    """Return advice where the package in `folder`, to which the module `name` belongs, lacks what is imported."""
    top = name.partition(".")[0]
    version = _version(_DISTRIBUTIONS.get(top, top))
    if "site-packages" in folder.parts:
        return (
            f"The installed {top}{f' {version}' if version else ''} does not have it: this code was written for "
            "another release of it. Its requirements name one; or change that import."
        )
    project = next(
        (
            one
            for one in folder.parents[:2]
            if any((one / f).is_file() for f in ("pyproject.toml", "setup.py"))
        ),
        None,
    )
    if project is not None:
        return f"{folder} does not have it: what its project generates comes with python -m pip install -e {project}."
    return (
        f"{folder} does not have it: is that the {top} which this code means, and complete (git submodules)?"
    )


def _folder(name: str) -> Path | None:
    """Return the folder of a top-level package, or the file of a module; None when it cannot be found."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec is not None else []
    return Path(places[-1]) if places and places[-1] else None


def raised_in(problem: BaseException) -> str:
    """Return the next step for a module that raises an error other than ImportError while it is imported.

    It is empty when no line of the traceback lies outside Python, installed packages and mpsprobe.
    """
    syntax = _syntax(problem)
    if syntax is not None:
        return syntax
    library = (str(Path(sys.base_prefix, "lib")), str(Path(sys.prefix, "lib")), "<")
    own = str(Path(__file__).parents[1])
    places = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(problem.__traceback__)
        if not frame.filename.startswith((*library, own)) and "site-packages" not in frame.filename
    ]
    if not places:
        return ""
    if re.search(r"cuda|nvidia", text_of(problem), re.IGNORECASE):
        return (
            f"{places[-1]} asks for CUDA while it is imported, and raises the same on a Mac. Guard that line with "
            "torch.cuda.is_available(), then try again."
        )
    return f"It raised at {places[-1]}: correct that, or import it from the folder that its own scripts start in."


def _syntax(problem: BaseException) -> str | None:
    """Return advice for a file with syntax that this Python cannot read; None for any other error."""
    if not isinstance(problem, SyntaxError) or not problem.filename:
        return None
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = f"{problem.filename}:{problem.lineno}"
    for folder in Path(problem.filename).parents:
        try:
            text = (folder / "pyproject.toml").read_text()
            wanted = re.search(r"^requires-python\s*=\s*[\"']([^\"']+)", text, re.MULTILINE)
            if wanted is not None and Version(f"{here}.99") not in SpecifierSet(wanted[1]):
                needs = f"{place} is written for Python {wanted[1]}, and this is {here}"
                return f"{needs}: install mpsprobe in such a Python."
        except (OSError, ValueError):  # no such file, or no specifier in it
            continue
    return f"Python {here} cannot read {place}. If its project is for another Python, install mpsprobe in that one."


def beside_torch(name: str) -> str:
    """Return the command that installs the release of torchvision or torchaudio for the installed torch."""
    return f"python -m pip install {shlex.quote(name + _for_torch(name, _version('torch') or ''))}"


def _for_torch(name: str, torch: str) -> str:
    """Return the version specifier of torchvision or torchaudio for a torch 2 release; empty for any other."""
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
