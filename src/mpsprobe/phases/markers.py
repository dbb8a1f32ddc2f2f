"""Environment markers of requirements (PEP 508), judged for the target Mac and not for the machine that asks.

The metadata of torch's CUDA build says `triton==3.7.1; platform_system == "Linux"`: on the Linux machine that makes a
prediction it holds, and on the Mac that the prediction is about it does not.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from mpsprobe.run import Mac

#: The macOS that is taken where the target Mac's is not known: the oldest of torch's newest wheels.
OLDEST_MACOS = "14.0"
#: Darwin's release counts on from macOS 11, which is Darwin 20; macOS 26 follows 15, and is Darwin 25
#: (https://en.wikipedia.org/wiki/Darwin_(operating_system)#Release_history).
_DARWIN_AHEAD, _DARWIN_AHEAD_FROM_26 = 9, -1


def of_target(mac: Mac | None = None, python: str | None = None) -> dict[str, str]:
    """Return the values of all markers on the target Mac.

    Args:
        mac: The target Mac, of which only the macOS matters here.
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
    """Return the release of the Darwin kernel of a macOS, which `platform.release()` gives there."""
    try:
        found = Version(macos)
    except InvalidVersion:
        found = Version(OLDEST_MACOS)
    ahead = _DARWIN_AHEAD if found.major < 26 else _DARWIN_AHEAD_FROM_26
    return f"{found.major + ahead}.{found.minor}.0"


def applies(requirement: Requirement, environment: Mapping[str, str], extras: Iterable[str] = ()) -> bool:
    """Return whether a requirement counts in an environment.

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
