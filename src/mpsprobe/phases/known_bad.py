"""Find torch releases that compute a target wrongly, by the ops that it called in earlier runs and predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge import advisories, environment, ops
from mpsprobe.knowledge._advisory import Certainty, Severity
from mpsprobe.models.hub.cache import Notes
from mpsprobe.models.targets import TargetRef
from mpsprobe.phases.requirements import Pins
from mpsprobe.run import Mac, OpUse

#: The number of releases around the installed one that are searched for a good one.
_NEAR = 15


class SeenUses(msgspec.Struct, frozen=True):
    """The op uses of a target that an earlier run or prediction recorded.

    Attributes:
        uses: One op use for each distinct call.
        longest: The greatest number of tokens that the model takes; None where its config states no limit.
    """

    uses: list[OpUse] = []
    longest: int | None = None


def remember(ref: TargetRef, uses: Iterable[OpUse], longest: int | None = None) -> None:
    """Cache a target's distinct op uses, so that checks of later runs can name releases that compute them right.

    Only runs with the same target and workload read them. Nothing is stored where there are no op uses.

    Args:
        ref: The target.
        uses: The op uses that a run or a prediction recorded.
        longest: The greatest number of tokens that the model takes; None where its config states no limit.
    """
    if distinct := _distinct(uses):
        seen = SeenUses(distinct, longest)
        Notes(_key(ref)).write(_name(ref), msgspec.to_builtins(seen))


def _distinct(uses: Iterable[OpUse]) -> list[OpUse]:
    """Return one op use of each op with its inputs, outputs and scalars, which decide whether the result is right."""
    found = {(one.op, repr(one.inputs), repr(one.outputs), repr(one.scalars)): one for one in uses}
    return list(found.values())


def nearest_good(uses: Iterable[OpUse], mac: Mac) -> str | None:
    """Return the torch release nearest to the target Mac's that is not known to compute any of these ops wrongly.

    Args:
        uses: The op uses of a target.
        mac: The target Mac, whose macOS rules releases out.

    Returns:
        The release, of another minor version than the target Mac's; None when there is none.
    """
    return _nearest_good(SeenUses(_distinct(uses)), mac, SpecifierSet())


def recall(ref: TargetRef) -> SeenUses:
    """Return what was stored for this target and workload; empty where nothing was, or where it has another schema."""
    try:
        return msgspec.convert(Notes(_key(ref)).read(_name(ref)), SeenUses)
    except msgspec.ValidationError:
        return SeenUses()


def _key(ref: TargetRef) -> str:
    return ref.repo or (str(ref.folder).strip("/") if ref.folder else ref.name)


#: The options that change the op uses of a target, such as lengths, the dtype and training.
_ASKED = (
    "revision", "config", "dtype", "autocast", "prompt_tokens", "new_tokens", "batch", "image_size", "frames", "steps",
    "audio_seconds", "train", "optimizer", "accumulate", "gradient_checkpointing", "shrink",
)  # fmt: skip


def _name(ref: TargetRef) -> str:
    """Return the name under which the op uses of a target are stored, one for each workload."""
    asked = repr([getattr(ref.settings, one) for one in _ASKED])
    return f"op-uses-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def notes(ref: TargetRef, pins: Pins, mac: Mac | None) -> list[str]:
    """Return a sentence in a list if the target Mac's torch is known to compute something of this target wrongly.

    It is known from the op uses of earlier runs; without them, or without a target Mac, the list is empty.

    Args:
        ref: The target.
        pins: Its requirements, including those on torch.
        mac: The target Mac; None when unknown.
    """
    seen = recall(ref)
    if mac is None or not seen.uses:
        return []
    wrong = _wrong(seen, mac.torch, mac)
    if not wrong:
        return []
    stated = [pin for pin in pins.pins if pin.name == "torch" and pin.required]
    within = SpecifierSet(",".join(pin.required for pin in stated))
    by = f" is pinned by {stated[0].stated_by} and" if any("==" in pin.required for pin in stated) else ""
    good = _nearest_good(seen, mac, within)
    nearest = f"nearest good: {good}" if good else "no release that the requirements allow is better"
    return [f"torch {mac.torch}{by} is known wrong for {', '.join(wrong[:3])}; {nearest}."]


def _wrong(seen: SeenUses, torch: str, mac: Mac) -> list[str]:
    """Return the ops that a release computes wrongly, each with its advisory; empty for an unknown release.

    Serious faults that are certain count, and those that a length within the model's limit reaches.
    """
    found: dict[str, None] = {}
    for use in seen.uses:
        try:
            met = advisories.match(use, torch, mac.macos, mac.chip)
            later = advisories.match_later(use, torch, mac.macos, mac.chip)
        except MpsprobeError:
            return []
        for one in (*met, *later):
            serious = one.advisory.severity in (Severity.CRITICAL, Severity.HIGH)
            if (serious and one.certainty is Certainty.CERTAIN) or one.is_reached(seen.longest):
                found[f"{use.op} ({one.advisory.id})"] = None
    return list(found)


def _nearest_good(seen: SeenUses, mac: Mac, within: SpecifierSet) -> str | None:
    """Return the nearest release of another minor version that computes all of these ops correctly, newer ones first.

    Args:
        seen: The op uses.
        mac: The target Mac, whose macOS rules releases out.
        within: The releases that the target's requirements allow.

    Returns:
        The release; None when there is none.
    """
    here = Version(mac.torch.partition("+")[0])
    order = sorted(
        (Version(one) for one in ops.releases()),
        key=lambda one: (abs(one.minor - here.minor) if one.major == here.major else _NEAR, one < here),
    )
    for release in order:
        text = f"{release.major}.{release.minor}.{release.micro}"
        if (release.major, release.minor) == (here.major, here.minor) or text not in within:
            continue
        if mac.macos and environment.macos_allows(text, mac.macos).ok is False:
            continue  # MPS is unavailable on that macOS
        if not _wrong(seen, text, mac):
            return text
    return None
