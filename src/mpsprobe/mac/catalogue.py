"""The catalogue of Macs by name, and the target Mac of a run.

A name is `m1-max-64`, or `m1-max-24c-64` where the number of GPU cores matters.
"""

from __future__ import annotations

import difflib
import re

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.chips import Chip, Variant
from mpsprobe.run import Host, Mac

_NAME = re.compile(r"(?P<chip>[am]\d+(?:-(?:pro|max|ultra))?)(?:-(?P<cores>\d+)c)?-(?P<memory>\d+)(?:gb)?")
_SEPARATORS = re.compile(r"[\s_,;/()]+")
_MEMORY = re.compile(r"-(\d+)-?gi?b(?=-)")
_CORES = re.compile(r"-(\d+)-?(?:c|cores?)(?:-gpu)?-")
#: Words for the machine, which say nothing that chip and memory do not say; a MacBook's "Pro" is no chip's.
_MODELS = re.compile(
    r"-(?:macbook-(?:air|pro|neo)|mac-(?:mini|studio|pro)|macbook|imac|air|mini|studio|apple)(?=-)"
)


class NamedMac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Mac of the catalogue. Every figure is predicted from `knowledge/data/chips.toml`.

    Attributes:
        name: The name, such as `"m1-max-24c-64"`, or `"m1-max-64"` where it was named without the cores.
        chip: The name of the chip as macOS writes it, such as `"Apple M1 Max"`.
        family: The Apple GPU family, such as `"apple7"`.
        gpu_cores: The number of GPU cores.
        memory_bytes: The physical memory in bytes.
        bandwidth: The memory bandwidth in bytes per second.
        f32_flops: The peak rate in float32, in operations per second; None when unknown.
        f16_flops: The peak rate in float16, in operations per second; None when unknown.
        macos: The version of macOS; None when unspecified.
        working_set_bytes: The predicted recommendedMaxWorkingSetSize of Metal in bytes.
        working_set_rule: The share of memory behind `working_set_bytes`, and the Mac on which it was observed, in
            words.
        sources: The web addresses of the facts.
    """

    name: str
    chip: str
    family: str
    gpu_cores: int
    memory_bytes: int
    bandwidth: float
    f32_flops: float | None
    f16_flops: float | None
    macos: str | None
    working_set_bytes: int
    working_set_rule: str
    sources: list[str]


def target_mac(
    host: Host,
    installed_torch: str,
    *,
    name: str | None = None,
    torch: str | None = None,
    macos: str | None = None,
    fallback: bool = False,
) -> Mac:
    """Return the target Mac: a named one, the present machine, or one with known releases and an unknown chip.

    Args:
        host: The facts of this machine.
        installed_torch: The release that is installed here, which is used where no release is given.
        name: A name in the catalogue, such as `"m1-max-64"`; None for this machine if it is a Mac.
        torch: The torch release on the target Mac.
        macos: The macOS version of the target Mac.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK is set there.

    Raises:
        UsageError: The catalogue has no Mac of that name, or `macos` is not a version.
    """
    release = torch or installed_torch
    if name is not None:
        meant = named(name, macos)
        return Mac(release, macos, meant.chip, meant.memory_bytes / (1 << 30), fallback)
    if host.system == "Darwin":
        memory = host.memory_bytes / (1 << 30) if host.memory_bytes else None
        return Mac(release, macos or host.os_version, host.chip, memory, fallback)
    return Mac(release, macos, fallback=fallback)


def names() -> list[str]:
    """Return the full name of every Mac, such as `m1-max-24c-32`."""
    return [
        _full(chip, variant, gib)
        for chip in chips.all_chips()
        for variant in chip.variants
        for gib in variant.memory_gib
    ]


def sold_with_cores(mac: NamedMac) -> list[int]:
    """Return the numbers of GPU cores with which a Mac of this chip and memory is sold, in increasing order."""
    chip = chips.find(mac.chip)
    variants = chip.variants if chip is not None else []
    return sorted(one.gpu_cores for one in variants if mac.memory_bytes >> 30 in one.memory_gib)


def named(name: str, macos: str | None = None) -> NamedMac:
    """Return the Mac called `name`.

    Args:
        name: Chip, GPU cores and memory in GB, such as `"m1-max-24c-64"`. Without the cores (`"m4-16"`) it is the
            Mac with the most cores that is sold with that memory.
        macos: The macOS version; None for the smaller working set of older releases.

    Raises:
        UsageError: The name is malformed, there is no such chip, it is not sold in that configuration (the hint
            lists those that are), or `macos` is not a version.
    """
    match = _NAME.fullmatch(_plain(name))
    chip = chips.find(match["chip"]) if match else None
    if match is None or chip is None:
        raise UsageError(f"No Mac is called {name!r}.", _suggest(name))
    memory = int(match["memory"])
    fitting = [
        variant
        for variant in chip.variants
        if memory in variant.memory_gib and match["cores"] in (None, str(variant.gpu_cores))
    ]
    if not fitting:
        sold = [_full(chip, variant, gib) for variant in chip.variants for gib in variant.memory_gib]
        raise UsageError(f"{chip.name} is not sold as {name!r}.", f"Known: {', '.join(sold)}.")
    variant = max(fitting, key=lambda variant: variant.gpu_cores)
    as_named = _full(chip, variant, memory) if match["cores"] else f"{chip.key}-{memory}"
    return _build(as_named, chip, variant, memory, macos)


def _plain(name: str) -> str:
    """Return a name in the catalogue's spelling: `"m4-max-40c-64"` for `"MacBook Pro M4 Max 40-core 64GB"`."""
    words = _SEPARATORS.sub("-", name.strip().lower())
    words = _CORES.sub(r"-\1c-", _MEMORY.sub(r"-\1", f"-{words}-"))
    words = _MODELS.sub("-", words)
    return re.sub("-+", "-", words).strip("-")


def _build(name: str, chip: Chip, variant: Variant, memory_gib: int, macos: str | None) -> NamedMac:
    memory = memory_gib * 2**30
    working_set, observed = chips.working_set(memory, macos)
    return NamedMac(
        name=name,
        chip=chip.name,
        family=chip.family,
        gpu_cores=variant.gpu_cores,
        memory_bytes=memory,
        bandwidth=variant.bandwidth_gbs * 1e9,
        f32_flops=chip.peak_flops(variant.gpu_cores, "float32"),
        f16_flops=chip.peak_flops(variant.gpu_cores, "float16"),
        macos=macos,
        working_set_bytes=working_set,
        working_set_rule=(
            f"{observed.share:.0%} of memory, as seen on a {observed.memory_gib} GB Mac"
            f" with macOS {observed.since_macos} or later"
        ),
        sources=[*chip.sources, observed.source],
    )


def _full(chip: Chip, variant: Variant, memory_gib: int) -> str:
    return f"{chip.key}-{variant.gpu_cores}c-{memory_gib}"


def _suggest(name: str) -> str:
    short = {re.sub(r"-\d+c-", "-", full) for full in names()}
    close = difflib.get_close_matches(name.lower(), sorted(short), n=3, cutoff=0.5)
    example = f"Did you mean {', '.join(close)}?" if close else "Examples: m1-max-64, m4-16."
    return f"{example} The format is CHIP[-CORESc]-MEMORY."
