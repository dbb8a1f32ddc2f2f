"""Compare what a target requires of its environment with what is installed.

Requirements come from the target's profile; from the metadata of installed distributions (the model's own package,
and each package that the profile pins and whose installed version satisfies the pin: transformers 4.55.4 forbids the
tokenizers that 4.57.1 needs, which does not matter once it is replaced); from its config.json; and from the imports
of its own code.

Environment markers (PEP 508) are evaluated for the target Mac, not for the machine that runs mpsprobe. The metadata of
torch's CUDA build says `triton==3.7.1; platform_system == "Linux"`: on a Linux machine that makes a prediction it
holds, and on the Mac that the prediction is about it does not.
"""

from __future__ import annotations

import ast
import platform
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mpsprobe.knowledge import environment, quantisation
from mpsprobe.models.profile import Profile
from mpsprobe.phases import requirements
from mpsprobe.run import Mac, Status

#: The macOS that is taken where the target Mac's is not known: the oldest of torch's newest wheels.
OLDEST_MACOS = "14.0"
#: Darwin's release counts on from macOS 11, which is Darwin 20; macOS 26 follows 15, and is Darwin 25
#: (https://en.wikipedia.org/wiki/Darwin_(operating_system)#Release_history).
_DARWIN_AHEAD, _DARWIN_AHEAD_FROM_26 = 9, -1


def of_target(mac: Mac | None = None, python: str | None = None) -> dict[str, str]:
    """Return the values of all environment markers (PEP 508) on the target Mac.

    Args:
        mac: The target Mac, of which only the macOS matters here; None for macOS 14.0.
        python: The version of its Python; None for the version of this process.
    """
    python = python or platform.python_version()
    host = default_environment()
    # A Python for Intel Macs, also under Rosetta, installs packages for Intel Macs.
    intel = platform.system() == "Darwin" and platform.machine() == "x86_64"
    darwin = _darwin(mac.macos if mac is not None and mac.macos else OLDEST_MACOS)
    return {
        "implementation_name": host["implementation_name"],
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": "x86_64" if intel else "arm64",
        "platform_python_implementation": host["platform_python_implementation"],
        "platform_release": darwin,
        "platform_system": "Darwin",
        "platform_version": f"Darwin Kernel Version {darwin}",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "darwin",
    }


def _darwin(macos: str) -> str:
    """Return the Darwin release of a macOS version, as `platform.release()` does there; 14.0's if malformed."""
    try:
        found = Version(macos)
    except InvalidVersion:
        found = Version(OLDEST_MACOS)
    ahead = _DARWIN_AHEAD if found.major < 26 else _DARWIN_AHEAD_FROM_26
    return f"{found.major + ahead}.{found.minor}.0"


def applies(requirement: Requirement, environment: Mapping[str, str], extras: Iterable[str] = ()) -> bool:
    """Return whether the markers of a requirement hold in an environment; True for those that cannot be evaluated.

    Args:
        requirement: The requirement, with or without a marker.
        environment: The values of all markers.
        extras: The requested extras, such as `"torch"` for `transformers[torch]`.
    """
    marker = requirement.marker
    if marker is None:
        return True
    try:
        return any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True  # what nobody can compare is better looked at than left out


#: A function that returns the version of a distribution by canonical name; None when it is not installed.
Installed = Callable[[str], "str | None"]
#: Packages that check their own requirements on import and raise: transformers does
#: (dependency_versions_check.py). Others run anyway, such as torch with its setuptools.
_CHECK_AT_IMPORT = ("transformers",)

#: A function that returns the requirement strings in an installed distribution's metadata.
Metadata = Callable[[str], "Iterable[str]"]


@dataclass(frozen=True)
class Pin:
    """A requirement, compared with the installed version.

    Attributes:
        name: The name of the distribution; `python` for the interpreter; a title for a quantisation.
        required: The version specifier, such as `"<1.0,>=0.34.0"`; empty when any version satisfies it.
        found: The installed version; None when it is not installed.
        stated_by: The source of the requirement: `"profile"`, `"config.json"`, a distribution with its version, or a
            file with its import.
        satisfied: Whether `found` is within `required`, or the package is optional.
        binding: Whether the target does not load without it; otherwise it is worth a warning.
        on_mac: What a CUDA package, or weights that cannot be loaded, mean on a Mac; `""` for all others. mpsprobe
            never installs such a package.
        extras: The extras that are requested: `("torch",)` of `transformers[torch]`.
        url: The address that a requirement names; `""` where it names none.
    """

    name: str
    required: str
    found: str | None
    stated_by: str
    satisfied: bool
    binding: bool = True
    on_mac: str = ""
    extras: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True)
class Pins:
    """All requirements of a target, compared with this environment.

    Attributes:
        pins: The requirements.
        notes: Further findings, one sentence each, such as a torch release known to be wrong for this target.
        conflict: The reason why no set of versions satisfies them all; `""` when one does, or when none was
            searched for.
        solved: The command that a solver found; `""` when none was searched for or found.
        release: The torch release of the target Mac, which need not be the installed one; `""` when unknown.
    """

    pins: list[Pin]
    notes: tuple[str, ...] = ()
    conflict: str = ""
    solved: str = ""
    release: str = ""

    @property
    def elsewhere(self) -> str:
        """Return which torch release runs here and which one the target Mac has; empty where they are one."""
        found = next((pin.found for pin in self.pins if pin.name == "torch" and pin.found), "")
        ran, asked = found.partition("+")[0], self.release.partition("+")[0]
        if not ran or not asked or ran == asked or ran.startswith(f"{asked}."):
            return ""
        return f"torch {ran} is installed here; the target Mac has torch {asked}"

    @property
    def unmet(self) -> list[Pin]:
        """Return the requirements that are missing or out of range."""
        return [pin for pin in self.pins if not pin.satisfied]

    @property
    def status(self) -> Status:
        """Return the phase's status: fail if a binding requirement is unmet, a warning for others and for notes."""
        if any(pin.binding for pin in self.unmet):
            return Status.FAIL
        return Status.WARN if self.unmet or self.notes else Status.PASS

    def fix(self) -> str:
        """Return one command that satisfies all requirements; empty when no package has to change.

        Without a solver's versions, it names every requirement on a package that changes, also those that are met,
        because a new version must not break them. Packages that already fit are not touched.
        """
        return self.solved or " ".join(shlex.quote(word) for word in self.command())

    def command(self) -> list[str]:
        """Return the install command without a solver's versions, as words; empty when no package has to change."""
        if not (requirements := self.requirements()):
            return []
        return ["python", "-m", "pip", "install", *requirements]

    def requirements(self) -> list[str]:
        """Return the requirement strings of the packages that have to change, as pip takes them, without CUDA's."""
        unmet = {pin.name for pin in self.unmet if not pin.on_mac} - {"python"}
        wanted: dict[str, list[Pin]] = defaultdict(list)
        for pin in self.pins:
            if pin.name in unmet:
                wanted[pin.name].append(pin)
        return [_joined(name, stated) for name, stated in wanted.items()]


def _joined(name: str, stated: Iterable[Pin]) -> str:
    """Return one requirement that combines all requirements of a package; an address takes the place of versions."""
    stated = list(stated)
    asked = name + with_extras(one for pin in stated for one in pin.extras)
    for pin in stated:
        if pin.url:
            return f"{asked} @ {pin.url}"
    specifiers = dict.fromkeys(pin.required for pin in stated if pin.required)
    return asked + str(SpecifierSet(",".join(specifiers)))


def with_extras(extras: Iterable[str]) -> str:
    """Return extras as a requirement names them: `"[torch,vision]"`; empty for none."""
    found = sorted(set(extras))
    return f"[{','.join(found)}]" if found else ""


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, from its metadata; None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_requirements(name: str) -> list[str]:
    """Return the requirements in a distribution's metadata; empty when it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def resolve(
    profile: Profile,
    installed: Installed = installed_version,
    requirements_of: Metadata = installed_requirements,
    python: str | None = None,
    config: Mapping[str, Any] | None = None,
    code: Iterable[Path] = (),
    mac: Mac | None = None,
) -> Pins:
    """Compare a profile's requirements, and those that follow from them, with what is installed.

    Args:
        profile: The profile whose `requires`, `python` and `package` are checked.
        installed: A function that looks up an installed version.
        requirements_of: A function that looks up the requirements in a distribution's metadata.
        python: The version of the interpreter; None for this one.
        config: The target's `config.json`; None where unknown.
        code: The Python files of the target's own code that loading imports.
        mac: The target Mac, for which markers such as `sys_platform == "linux"` are evaluated; None for an unknown
            one.
    """
    python = python or platform.python_version()
    pins: list[Pin] = []
    if profile.python:
        pins.append(_pin("python", SpecifierSet(profile.python), python, "profile"))
    there = requirements.of_target(mac, python)
    looked_up = _Distributions(installed, requirements_of, there)
    if profile.package:
        pins += looked_up.stated_by(Requirement(profile.package), binding=True)
    for root in map(Requirement, profile.requires):
        if not requirements.applies(root, there):
            continue
        pin = _asked(root, installed, "profile")
        pins.append(pin)
        if pin.satisfied:
            pins += looked_up.stated_by(root, binding=pin.name in _CHECK_AT_IMPORT)
    pins += _of_config(config or {}, installed)
    pins += _of_code(code, installed)
    return Pins(_without_repeats(pins))


def _of_config(config: Mapping[str, Any], installed: Installed) -> list[Pin]:
    """Return what a config.json requires: the transformers that wrote it, and what its quantisation needs.

    An older transformers gives a warning only; a quantisation that cannot be loaded is binding.
    """
    pins = []
    version = installed("transformers")
    saved = str(config.get("transformers_version") or "")
    try:
        stated = Version(Version(saved).base_version)
    except InvalidVersion:
        stated = None
    if stated is not None and version is not None and Version(version) < stated:
        # An older release may have the class too, which only loading shows.
        pins.append(_pin("transformers", SpecifierSet(f">={stated}"), version, "config.json", binding=False))
    quantised = quantisation.find(config)
    if quantised is not None and version is not None:
        loading = quantisation.answer(quantised, version, installed)
        if loading.fails:
            said = f"loading raises {loading.error}" if loading.raises else loading.sentences[0].rstrip(".")
            advice = said + (f"; {loading.fix}" if loading.fix else "")
            pins.append(Pin(quantised.title, "", None, "config.json", False, True, advice))
    return pins


def _of_code(code: Iterable[Path], installed: Installed) -> list[Pin]:
    """Return the requirements that follow from the imports of the target's own code: CUDA packages and missing ones."""
    pins = []
    for path in code:
        needed, optional = imports_of(path)
        for module in sorted(needed | optional):
            package = environment.cuda_import(module)
            stated = f"{path.name}, import {module}"
            if package is not None and not package.usable_from:
                meaning = package.meaning if module in needed else environment.CudaMeaning.OPTIONAL
                pins.append(_cuda(package, meaning, stated))
            elif module in needed and find_spec(module) is None:
                name = _DISTRIBUTIONS.get(module, module)
                least = f">={package.usable_from}" if package is not None else ""
                pins.append(_pin(canonicalize_name(name), SpecifierSet(least), installed(name), stated))
    return pins


#: Names of distributions that differ from the names of their modules.
_DISTRIBUTIONS = {"cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "skimage": "scikit-image",
                  "yaml": "pyyaml", "hydra": "hydra-core", "OpenSSL": "pyopenssl", "google": "protobuf"}  # fmt: skip


def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Return the top-level modules that importing a file needs, and those that are optional.

    An import inside `try`, inside a function, or behind `if` is optional. Modules of Python's own library, and
    relative imports, are left out. Both sets are empty for a file that cannot be read or parsed.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return set(), set()
    needed: set[str] = set()
    optional: set[str] = set()

    def visit(nodes: Iterable[ast.AST], guarded: bool) -> None:
        for node in nodes:
            into = optional if guarded else needed
            if isinstance(node, ast.Import):
                into.update(one.name.partition(".")[0] for one in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                into.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Try | ast.If | ast.FunctionDef | ast.AsyncFunctionDef):
                visit(ast.iter_child_nodes(node), True)
            else:
                visit(ast.iter_child_nodes(node), guarded)

    visit(tree.body, False)
    known = sys.stdlib_module_names
    return needed - known, optional - needed - known


def _cuda(package: environment.CudaPackage, meaning: environment.CudaMeaning, stated: str) -> Pin:
    """Return the requirement for a CUDA package, which is never installed, and counts as met if optional."""
    words = {
        environment.CudaMeaning.OPTIONAL: "CUDA only; optional: the code goes on without it",
        environment.CudaMeaning.REPLACE: f"CUDA only; replace it: {package.instead}",
        environment.CudaMeaning.BLOCKS: f"CUDA only; blocks: {package.instead}",
    }[meaning]
    optional = meaning is environment.CudaMeaning.OPTIONAL
    return Pin(package.name, "", None, stated, optional, not optional, words)


@dataclass(frozen=True)
class _Distributions:
    """The metadata of the installed distributions, with markers evaluated for the target Mac.

    Attributes:
        installed: The function that looks up an installed version.
        requirements_of: The function that looks up the requirements in a distribution's metadata.
        there: The values of the markers on the target Mac.
    """

    installed: Installed
    requirements_of: Metadata
    there: Mapping[str, str]

    def stated_by(self, asked: Requirement, *, binding: bool) -> list[Pin]:
        """Return the requirements in the metadata of a distribution and its requested extras; empty if not installed.

        CUDA packages among them are warnings, because metadata does not show whether the code works without them.
        """
        version = self.installed(asked.name)
        if version is None:
            return []
        name = canonicalize_name(asked.name)
        stated = f"{name}{with_extras(asked.extras)} {version}"
        pins = []
        for text in self.requirements_of(asked.name):
            try:
                requirement = Requirement(text)
            except InvalidRequirement:  # the target is not at fault for another package's legacy metadata
                continue
            if not requirements.applies(requirement, self.there, asked.extras):
                continue
            package = environment.cuda_distribution(requirement.name)
            if package is not None and not package.usable_from:
                # metadata does not show whether its code works without it: a warning, and never to be installed
                words = f"CUDA only: install {name} with --no-deps. {package.instead}"
                found = self.installed(package.name)
                pins.append(Pin(package.name, str(requirement.specifier), found, stated, False, False, words))
            else:
                pins.append(_asked(requirement, self.installed, stated, binding))
        return pins


def _asked(requirement: Requirement, installed: Installed, stated_by: str, binding: bool = True) -> Pin:
    """Return a requirement with its extras and address, compared with the installed version."""
    name = canonicalize_name(requirement.name)
    pin = _pin(name, requirement.specifier, installed(requirement.name), stated_by, binding)
    return replace(pin, extras=tuple(sorted(requirement.extras)), url=requirement.url or "")


def _pin(name: str, specifier: SpecifierSet, found: str | None, stated_by: str, binding: bool = True) -> Pin:
    satisfied = found is not None and specifier.contains(Version(found), prereleases=True)
    return Pin(name, str(specifier), found, stated_by, satisfied, binding)


def _without_repeats(pins: list[Pin]) -> list[Pin]:
    """Return the requirements without repeats of name, versions and extras, of which the first stays."""
    return list({(pin.name, pin.required, pin.extras): pin for pin in reversed(pins)}.values())[::-1]
