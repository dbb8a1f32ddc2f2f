"""Torch releases that are known to be wrong for a target, judged by the ops that it called in earlier runs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge import advisories, ops
from mpsprobe.knowledge._advisory import Certainty, Severity
from mpsprobe.models.hub.cache import Notes
from mpsprobe.models.targets import TargetRef
from mpsprobe.phases.requirements import Pins
from mpsprobe.run import Mac, OpUse

_NAME = "op-uses"
#: Releases further away than this many are no help.
_NEAR = 15


def remember(ref: TargetRef, uses: Sequence[OpUse]) -> None:
    """Keep the op uses of a target, for the pins of later runs."""
    if uses:
        Notes(_key(ref)).write(_NAME, {"uses": msgspec.to_builtins(list(uses))})


def recall(ref: TargetRef) -> list[OpUse]:
    """Return the op uses that were kept; none where there were none, or they are of another version of mpsprobe."""
    try:
        return msgspec.convert(Notes(_key(ref)).read(_NAME).get("uses", []), list[OpUse])
    except msgspec.ValidationError:
        return []


def _key(ref: TargetRef) -> str:
    return ref.repo or (str(ref.folder).strip("/") if ref.folder else ref.name)


def notes(ref: TargetRef, pins: Pins, mac: Mac | None) -> list[str]:
    """Return a sentence where the torch of the target Mac is known to compute something of this target wrongly.

    Args:
        ref: the target.
        pins: its requirements, among them those on torch.
        mac: the target Mac.
    """
    uses = recall(ref)
    if mac is None or not uses:
        return []
    wrong = _wrong(uses, mac.torch, mac)
    if not wrong:
        return []
    stated = [pin for pin in pins.pins if pin.name == "torch" and pin.required]
    within = SpecifierSet(",".join(pin.required for pin in stated))
    by = f" is pinned by {stated[0].stated_by} and" if any("==" in pin.required for pin in stated) else ""
    good = _nearest_good(uses, mac, within)
    nearest = f"nearest good: {good}" if good else "no release that the requirements allow is better"
    return [f"torch {mac.torch}{by} is known wrong for {', '.join(wrong[:3])}; {nearest}."]


def _wrong(uses: Sequence[OpUse], torch: str, mac: Mac) -> list[str]:
    """Return the ops that a release is certain to compute wrongly, each with its advisory."""
    found: dict[str, None] = {}
    for use in uses:
        try:
            matches = advisories.match(use, torch, mac.macos, mac.chip)
        except MpsprobeError:
            return []
        for one in matches:
            serious = one.advisory.severity in (Severity.CRITICAL, Severity.HIGH)
            if serious and one.certainty is Certainty.CERTAIN:
                found[f"{use.op} ({one.advisory.id})"] = None
    return list(found)


def _nearest_good(uses: Sequence[OpUse], mac: Mac, within: SpecifierSet) -> str | None:
    """Return the release nearest to the target Mac's that computes all of these ops rightly, newer ones first."""
    here = Version(mac.torch.partition("+")[0])
    order = sorted(
        (Version(one) for one in ops.releases()),
        key=lambda one: (abs(one.minor - here.minor) if one.major == here.major else _NEAR, one < here),
    )
    for release in order:
        text = f"{release.major}.{release.minor}.{release.micro}"
        if (release.major, release.minor) == (here.major, here.minor) or text not in within:
            continue
        if not _wrong(uses, text, mac):
            return text
    return None
