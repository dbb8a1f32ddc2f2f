"""Phase 2: check whether what is installed satisfies what the target requires, and find versions that do.

uv finds them, where it is installed: for all requirements at once, for the target Mac and this Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge import environment
from mpsprobe.models.hub import client, remote_code
from mpsprobe.models.hub.snapshot import read_config
from mpsprobe.models.targets import TargetRef
from mpsprobe.phases import known_bad
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.phases.requirements import (
    OLDEST_MACOS,
    Installed,
    Pin,
    Pins,
    installed_version,
    resolve,
    with_extras,
)
from mpsprobe.run import Evidence, Mac, Phase, Status, Table

CHECKS: Checks[Pins] = Checks(Phase.PINS)


def verdict(pins: Pins) -> Result:
    """Return the result of the phase: a row for each requirement, and the advice for those that are not met.

    The advice is one command that satisfies all of them, the reason why none does, or another Python.
    """
    table = Table(
        columns=["package", "required", "found", "stated by", "verdict"],
        rows=[
            [
                pin.name,
                pin.required or "any",
                pin.found or "not installed",
                pin.stated_by,
                pin.on_mac or ("ok" if pin.satisfied else "missing" if pin.found is None else "mismatch"),
            ]
            for pin in sorted(pins.pins, key=lambda pin: (pin.satisfied, pin.stated_by != "profile"))
        ],
    )
    unmet = pins.unmet
    if not unmet and not pins.notes:
        message = f"{len(pins.pins)} requirements, all satisfied." if pins.pins else "The target states none."
        if pins.elsewhere:
            message = f"{message} Judged by what is installed: {pins.elsewhere}."
        return Result(Status.PASS, message, evidence=Evidence.MEASURED, table=table)
    found = "; ".join(_told(pin) for pin in unmet)
    remedy = pins.fix()
    if pins.conflict:
        remedy = f"No versions satisfy them all: {pins.conflict}"
    if any(pin.name == "python" for pin in unmet):
        required = next(pin.required for pin in unmet if pin.name == "python")
        remedy = f"Use a Python {required}. {remedy}".strip()
    message = " ".join(filter(None, (f"{found}." if found else "", *pins.notes)))
    return Result(pins.status, message, remedy, evidence=Evidence.MEASURED, table=table)


def _told(pin: Pin) -> str:
    """Describe an unmet requirement in a clause: `transformers 4.55.4, required ==4.57.1 (profile)`."""
    if pin.on_mac:
        return f"{pin.name} ({pin.stated_by}): {pin.on_mac}".rstrip(".")
    found = pin.found or "is not installed"
    return f"{pin.name} {found}, required {pin.required or 'in any version'} ({pin.stated_by})"


def of_target(ref: TargetRef, mac: Mac | None = None) -> Pins:
    """Return the requirements of a target: its profile's, its config's, its code's, and known faults of its torch.

    Where some are not met, a solver searches for versions that satisfy all.

    Args:
        ref: The target. The config.json of a repository is fetched if it is not in the cache. A config that cannot
            be fetched or read adds nothing here; phase 3 reports the reason.
        mac: The target Mac, whose torch is judged by the ops that the target called in earlier runs; None when
            unknown.
    """
    folder = _folder(ref)
    config: Mapping[str, Any] = {}
    code: list[Path] = []
    if folder is not None:
        with contextlib.suppress(MpsprobeError):
            config = read_config(folder)
            if remote_code.is_needed(dict(config)):
                code = [
                    one.folder / one.name
                    for one in remote_code.files(folder, dict(config), offline=ref.offline)
                ]
    found = resolve(ref.profile, config=config, code=code, mac=mac)
    notes = [*_of_machine(platform.system(), platform.machine(), installed_version), *_of_macos(mac)]
    notes += known_bad.notes(ref, found, mac)
    found = dataclasses.replace(found, notes=tuple(notes), release=mac.torch if mac is not None else "")
    if found.requirements():
        solution = solve(found, mac)
        if solution is not None:
            found = dataclasses.replace(found, solved=solution.command, conflict=solution.conflict)
    return found


def _folder(ref: TargetRef) -> Path | None:
    if ref.folder is not None:
        return ref.folder
    if ref.repo is None:
        return None
    with contextlib.suppress(MpsprobeError):
        config = client.fetch_file(ref.repo, "config.json", ref.revision, offline=ref.offline)
        if config is None:
            return None
        if remote_code.is_needed(raw := read_config(config.parent)):
            remote_code.fetch(ref.repo, raw, ref.revision, offline=ref.offline)
        return config.parent
    return None


def _of_machine(system: str, machine: str, installed: Installed) -> list[str]:
    """Return a sentence for a Python for Intel Macs, which gets no torch after 2.2.2; none for other machines."""
    if system != "Darwin" or machine != "x86_64":
        return []
    return [
        "This is a Python for Intel Macs: torch 2.2.2 is the last release for it, needs numpy<2, and has no MPS worth "
        f"the name (installed: torch {installed('torch')}, numpy {installed('numpy')}). On Apple silicon use an arm64 "
        "Python, not Rosetta."
    ]


def _of_macos(mac: Mac | None) -> list[str]:
    """Return a sentence if the target Mac's macOS is too old for MPS in its torch; none if it is not, or is unknown."""
    if mac is None or not mac.macos:
        return []
    allowed = environment.macos_allows(mac.torch, mac.macos)
    return [allowed.message] if allowed.ok is False else []


def require(ref: TargetRef, *, ignore: bool = False, mac: Mac | None = None) -> Pins:
    """Make the link of phase 2: the target's requirements, compared with what is installed.

    Args:
        ref: The target.
        ignore: Whether to go on although a binding requirement is not met.
        mac: The target Mac; None when unknown.

    Raises:
        LinkFailed: A binding requirement is not met, and `ignore` is not set.
    """
    pins = of_target(ref, mac)
    if pins.status is Status.FAIL and not ignore:
        raise LinkFailed(Phase.PINS, verdict(pins))
    return pins


CHECKS.add("requirements", "What is installed satisfies what the target requires", link=True)(verdict)


#: The time limit of uv in seconds; without a connection it answers at once.
_LIMIT_S = 60.0
#: uv's message about a release without wheels.
_NEEDS_A_BUILD = re.compile(r"no usable wheels|has no wheels|building from source is disabled")


@dataclass(frozen=True)
class Solution:
    """The versions that uv found, or the reason why there are none.

    Attributes:
        command: One pip command that satisfies everything; `""` where there is none.
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
        The solution; None where uv is not installed (the extra `solve`), cannot reach its index or would have to
        build a package, or where an unmet requirement names an address.
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
    """Return whether an installed package can keep its version, because no requirement of the target needs another."""
    installed = _installed()[name].partition("+")[0]
    if installed == version or any(one.startswith(f"{name}==") for one in held):
        return True
    # the pins do not hold what new versions require of other packages, which pip changes by itself
    return all(pin.satisfied for pin in pins.pins if pin.name == name)


def find_uv() -> str | None:
    """Return the path of uv, from its Python package or else on PATH; None where it is not installed."""
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
    """Return the versions that uv chooses by package name, with an empty text.

    Without a solution the versions are an empty dict, with uv's message. They are None where uv cannot answer: no
    connection, no answer in time, or a package without wheels.
    """
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
