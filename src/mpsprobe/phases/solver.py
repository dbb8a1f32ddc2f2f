"""Find one set of versions that satisfies all unmet requirements, with uv, for the target Mac and this Python."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.utils import canonicalize_name

from mpsprobe.phases.requirements import OLDEST_MACOS, Pins, with_extras
from mpsprobe.run import Mac

#: The time limit of uv in seconds; without a connection it answers at once.
_LIMIT_S = 60.0
#: uv's message about a release without wheels.
_NEEDS_A_BUILD = re.compile(r"no usable wheels|has no wheels|building from source is disabled")


@dataclass(frozen=True)
class Solution:
    """The answer of uv.

    Attributes:
        command: One command that satisfies everything; `""` where there is none.
        conflict: The reason why there is none, in uv's words, shortened; `""` where there is one.
    """

    command: str = ""
    conflict: str = ""


def solve(pins: Pins, mac: Mac | None = None) -> Solution | None:
    """Find versions for everything that has to change, and leave installed packages as they are where possible.

    Args:
        pins: Requirements of which some are not met.
        mac: The target Mac, whose macOS decides which wheels are available; None when unknown.

    Returns:
        The solution; None where uv is not installed (the extra `solve`) or cannot reach its index.
    """
    uv = find_uv()
    if uv is None:
        return None
    stated = [pin for pin in pins.pins if pin.name != "python" and not pin.on_mac]
    if any(pin.url for pin in pins.unmet):
        return None  # one that comes from an address has no other versions to choose from
    asked = [f"{pin.name}{with_extras(pin.extras)}{pin.required}" for pin in stated]
    extras = {
        name: with_extras(one for pin in stated if pin.name == name for one in pin.extras)
        for name in {pin.name for pin in stated}
    }
    changed = {pin.name for pin in pins.unmet}
    kept = [
        f"{name}=={version.partition('+')[0]}"
        for name, version in _installed().items()
        if name not in changed
    ]
    required = {canonicalize_name(re.split(r"[^\w.-]", one)[0]) for one in asked}
    tries: tuple[Sequence[str], ...] = (
        [one for one in kept if one.partition("==")[0] in required],  # only packages that must change do
        (),
    )
    conflict = ""
    for held in tries:
        found, conflict = _compiled(uv, asked, held, mac)
        if found is None:
            return None
        if found:
            wanted = [
                f"{name}{extras.get(name, '')}=={version}"
                for name, version in sorted(found.items())
                if name in changed
            ]
            wanted += [
                f"{name}=={version}"
                for name, version in sorted(found.items())
                if name not in changed and name in _installed() and not _stays(name, version, held, pins)
            ]
            return Solution(command="python -m pip install " + " ".join(map(shlex.quote, wanted)))
    return Solution(conflict=conflict)


def _stays(name: str, version: str, held: Sequence[str], pins: Pins) -> bool:
    """Return whether an installed package need not change: it was held, or nothing in the solution needs another."""
    installed = _installed()[name].partition("+")[0]
    if installed == version or any(one.startswith(f"{name}==") for one in held):
        return True
    # the pins do not hold what new versions require of other packages, which pip changes by itself
    return all(pin.satisfied for pin in pins.pins if pin.name == name)


def find_uv() -> str | None:
    """Return the path of uv; None where it is not installed."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin  # type: ignore[import-not-found, unused-ignore]

        try:
            return str(find_uv_bin())
        except FileNotFoundError:
            return None
    return shutil.which("uv")


def _installed() -> dict[str, str]:
    return {
        canonicalize_name(one.metadata["Name"]): one.version
        for one in metadata.distributions()
        if one.metadata["Name"]
    }


def _compiled(
    uv: str, asked: Sequence[str], held: Sequence[str], mac: Mac | None
) -> tuple[dict[str, str] | None, str]:
    """Return the versions that uv chooses by name, and its message where there are none; None without an index."""
    arguments = [
        # no settings of the working directory, which may be the model's folder, and no package's setup.py
        uv, "--no-config", "pip", "compile", "--only-binary", ":all:", "--quiet", "--no-header", "--no-annotate",
        "--python-platform", "aarch64-apple-darwin", "--python-version",
        ".".join(platform.python_version_tuple()[:2]), "-",
    ]  # fmt: skip
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": (mac.macos if mac and mac.macos else OLDEST_MACOS)}
    try:
        done = subprocess.run(
            arguments, input="\n".join([*asked, *held]), capture_output=True, text=True, timeout=_LIMIT_S, env=env,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    if done.returncode == 0:
        lines = (line.split(";")[0].strip() for line in done.stdout.splitlines() if "==" in line)
        return {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines)}, ""
    if "No solution found" not in done.stderr or _NEEDS_A_BUILD.search(" ".join(done.stderr.split())):
        return None, ""  # no connection, or a package without wheels, whose setup.py would run
    words = " ".join(done.stderr.split())
    _, _, reason = words.partition("Because ")
    return {}, f"because {reason[:600]}" if reason else words[:600]
