"""Phase 2: check whether what is installed satisfies what the target requires."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge import environment
from mpsprobe.models.hub import client, remote_code
from mpsprobe.models.hub.snapshot import read_config
from mpsprobe.models.targets import TargetRef
from mpsprobe.phases import known_bad, solver
from mpsprobe.phases.check import Checks, LinkFailed, Result
from mpsprobe.phases.requirements import Installed, Pin, Pins, installed_version, resolve
from mpsprobe.run import Evidence, Mac, Phase, Status, Table

CHECKS: Checks[Pins] = Checks(Phase.PINS)


def verdict(pins: Pins) -> Result:
    """Return one row for each requirement, and the one command that satisfies all unmet ones."""
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
    """Return an unmet requirement as a clause."""
    if pin.on_mac:
        return f"{pin.name} ({pin.stated_by}): {pin.on_mac}".rstrip(".")
    found = pin.found or "is not installed"
    return f"{pin.name} {found}, required {pin.required or 'in any version'} ({pin.stated_by})"


def of_target(ref: TargetRef, mac: Mac | None = None) -> Pins:
    """Return the requirements of a target: its profile's, its config's, its code's, and known faults of its torch.

    Args:
        ref: The target. Its config.json is fetched if it is small and not in the cache. A config that cannot be
            fetched adds nothing here; phase 3 reports the reason.
        mac: The target Mac, whose torch is judged by the ops that the target called in earlier runs.
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
    found = dataclasses.replace(found, notes=tuple(notes))
    if found.requirements():
        solution = solver.solve(found, mac)
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
    """Return what this machine forbids: an Intel Mac gets no torch after 2.2.2, which needs numpy below 2."""
    if system != "Darwin" or machine != "x86_64":
        return []
    return [
        "This is a Python for Intel Macs: torch 2.2.2 is the last release for it, needs numpy<2, and has no MPS worth "
        f"the name (installed: torch {installed('torch')}, numpy {installed('numpy')}). On Apple silicon use an arm64 "
        "Python, not Rosetta."
    ]


def _of_macos(mac: Mac | None) -> list[str]:
    """Return what the target Mac's macOS forbids: each torch release needs a minimum macOS for MPS."""
    if mac is None or not mac.macos:
        return []
    allowed = environment.macos_allows(mac.torch, mac.macos)
    return [allowed.message] if allowed.ok is False else []


def require(ref: TargetRef, *, ignore: bool = False, mac: Mac | None = None) -> Pins:
    """Make the link of phase 2.

    Raises:
        LinkFailed: A requirement is not met, unless `ignore` is set.
    """
    pins = of_target(ref, mac)
    if pins.status is Status.FAIL and not ignore:
        raise LinkFailed(Phase.PINS, verdict(pins))
    return pins


CHECKS.add("requirements", "What is installed satisfies what the target requires", link=True)(verdict)
