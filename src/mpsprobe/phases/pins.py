"""Phase 2: does what is installed satisfy what the target requires?

Requirements come from the target's profile and from the metadata of installed distributions: the model's own
package, and each package the profile pins that is installed in a version that will stay. (The metadata of
a version about to be replaced says nothing: transformers 4.55.4 forbids the tokenizers that 4.57.1 needs.)
"""

from __future__ import annotations

import platform
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mpsprobe.models.profile import Profile
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.run import Evidence, Phase, Status, Table

#: Version of an installed distribution by canonical name, None when it is not installed.
Installed = Callable[[str], "str | None"]
#: Packages that look at their own requirements when they are imported, and refuse: transformers does
#: (dependency_versions_check.py). Others, torch with its setuptools for one, run all the same.
_CHECK_AT_IMPORT = ("transformers",)

#: Requirement strings of an installed distribution's own metadata.
Metadata = Callable[[str], "Iterable[str]"]


@dataclass(frozen=True)
class Pin:
    """One requirement against what is installed.

    Attributes:
        name: distribution name; `python` for the interpreter.
        required: specifier, e.g. `"<1.0,>=0.34.0"`; empty when any version will do.
        found: installed version; None when it is not installed.
        stated_by: who asks for it: `"profile"`, or a distribution with its version.
        satisfied: found is within required.
        binding: without it the target does not load; otherwise it is worth a warning.
    """

    name: str
    required: str
    found: str | None
    stated_by: str
    satisfied: bool
    binding: bool = True


@dataclass(frozen=True)
class Pins:
    """All requirements of a target against this environment."""

    pins: list[Pin]

    @property
    def unmet(self) -> list[Pin]:
        """Those that are missing or out of range."""
        return [pin for pin in self.pins if not pin.satisfied]

    @property
    def status(self) -> Status:
        """Fail when a binding one is unmet, a warning when another is."""
        if any(pin.binding for pin in self.unmet):
            return Status.FAIL
        return Status.WARN if self.unmet else Status.PASS

    def mend(self) -> str:
        """One command that satisfies all of them; empty when all are satisfied, or only Python's is not.

        Every requirement on a package to be changed is part of it, satisfied ones too: a new version must
        not break those. Packages that already fit are not touched.
        """
        wanted: dict[str, list[str]] = defaultdict(list)
        unmet = {pin.name for pin in self.unmet} - {"python"}
        for pin in self.pins:
            if pin.name in unmet and pin.required not in wanted[pin.name]:
                wanted[pin.name].append(pin.required)
        if not wanted:
            return ""
        requirements = [
            name + str(SpecifierSet(",".join(filter(None, specs)))) for name, specs in wanted.items()
        ]
        return "python -m pip install " + " ".join(shlex.quote(requirement) for requirement in requirements)


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, from its metadata."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed_requirements(name: str) -> list[str]:
    """What an installed distribution says it requires; nothing when it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def resolve(
    profile: Profile,
    installed: Installed = installed_version,
    requirements_of: Metadata = installed_requirements,
    python: str | None = None,
) -> Pins:
    """Compare a profile's requirements, and those of the packages they lead to, with what is installed.

    Args:
        profile: whose `requires`, `python` and `package` are checked.
        installed: looks up an installed version.
        requirements_of: looks up the requirements in a distribution's metadata.
        python: version of the interpreter; this one when None.
    """
    python = python or platform.python_version()
    pins: list[Pin] = []
    if profile.python:
        pins.append(_pin("python", SpecifierSet(profile.python), python, "profile"))
    roots = [Requirement(text) for text in profile.requires]
    if profile.package:
        pins += _stated_by(profile.package, installed, requirements_of, binding=True)
    for root in roots:
        if root.marker is not None and not root.marker.evaluate():
            continue
        pin = _pin(canonicalize_name(root.name), root.specifier, installed(root.name), "profile")
        pins.append(pin)
        if pin.satisfied:
            binding = canonicalize_name(root.name) in _CHECK_AT_IMPORT
            pins += _stated_by(root.name, installed, requirements_of, binding=binding)
    return Pins(_without_repeats(pins))


def _stated_by(name: str, installed: Installed, requirements_of: Metadata, *, binding: bool) -> list[Pin]:
    version = installed(name)
    if version is None:
        return []
    pins = []
    for text in requirements_of(name):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # legacy metadata of somebody else's package is not the target's fault
            continue
        # Extras were not asked for: a marker that needs one is false with `extra` empty.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        pins.append(
            _pin(
                canonicalize_name(requirement.name),
                requirement.specifier,
                installed(requirement.name),
                f"{canonicalize_name(name)} {version}",
                binding,
            )
        )
    return pins


def _pin(name: str, specifier: SpecifierSet, found: str | None, stated_by: str, binding: bool = True) -> Pin:
    satisfied = found is not None and specifier.contains(Version(found), prereleases=True)
    return Pin(name, str(specifier), found, stated_by, satisfied, binding)


def _without_repeats(pins: list[Pin]) -> list[Pin]:
    """Keep the first of equal demands: `numpy>=1.17` by three packages is one row."""
    return list({(pin.name, pin.required): pin for pin in reversed(pins)}.values())[::-1]


CHECKS: Checks[Pins] = Checks(Phase.PINS)


def verdict(pins: Pins) -> Result:
    """One row a requirement, and the one command that mends all that are not met."""
    table = Table(
        columns=["package", "required", "found", "stated by", "verdict"],
        rows=[
            [
                pin.name,
                pin.required or "any",
                pin.found or "not installed",
                pin.stated_by,
                "ok" if pin.satisfied else ("missing" if pin.found is None else "mismatch"),
            ]
            for pin in sorted(pins.pins, key=lambda pin: (pin.satisfied, pin.stated_by != "profile"))
        ],
    )
    unmet = pins.unmet
    if not unmet:
        message = f"{len(pins.pins)} requirements, all satisfied." if pins.pins else "The target states none."
        return Result(Status.PASS, message, evidence=Evidence.MEASURED, table=table)
    found = "; ".join(
        f"{pin.name} {pin.found or 'is not installed'}, required {pin.required or 'in any version'}"
        f" ({pin.stated_by})"
        for pin in unmet
    )
    remedy = pins.mend()
    if any(pin.name == "python" for pin in unmet):
        required = next(pin.required for pin in unmet if pin.name == "python")
        remedy = f"Use a Python {required}. {remedy}".strip()
    return Result(pins.status, f"{found}.", remedy, evidence=Evidence.MEASURED, table=table)


def require(profile: Profile, *, ignore: bool = False) -> Pins:
    """The link of phase 2.

    Raises:
        LinkFailed: a requirement is not met, unless `ignore` is set.
    """
    pins = resolve(profile)
    if pins.status is Status.FAIL and not ignore:
        raise LinkFailed(Phase.PINS, verdict(pins))
    return pins


CHECKS.add("requirements", "What is installed satisfies what the target requires", link=True)(verdict)
