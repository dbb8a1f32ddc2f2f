"""The catalogue of Macs, by name, and the target Mac of a question.

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


class NamedMac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Mac of the catalogue: every figure is predicted from `knowledge/data/chips.toml`.

    Attributes:
        name: full name, e.g. `"m1-max-32c-64"`.
        chip: name of the chip as macOS writes it, `"Apple M1 Max"`.
        family: Apple GPU family, `"apple7"`.
        gpu_cores: number of GPU cores.
        memory_bytes: physical memory.
        bandwidth: memory bandwidth, bytes a second.
        f32_flops, f16_flops: peak arithmetic rate, operations a second; None when unknown.
        macos: version of macOS; None when it was left open.
        working_set_bytes: predicted value of Metal's recommendedMaxWorkingSetSize.
        working_set_rule: how `working_set_bytes` was predicted.
        sources: web addresses of the facts.
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
    """Return the target Mac: a named one, or the one at hand, or one of which only the releases are known.

    Args:
        host: this machine.
        installed_torch: release installed here, used where no release is given.
        name: name in the catalogue, e.g. `"m1-max-64"`; None for this machine if it is a Mac.
        torch: torch release on the target Mac.
        macos: macOS version of the target Mac.
        fallback: whether PYTORCH_ENABLE_MPS_FALLBACK is set there.

    Raises:
        UsageError: the catalogue has no Mac of that name.
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
    """Return every full name, such as `m1-max-24c-32`."""
    return [
        _full(chip, variant, gib)
        for chip in chips.all_chips()
        for variant in chip.variants
        for gib in variant.memory_gib
    ]


def named(name: str, macos: str | None = None) -> NamedMac:
    """Return the Mac called `name`.

    Args:
        name: chip, GPU cores and memory in GB, e.g. `"m1-max-24c-64"`; without the cores (`"m4-16"`) the Mac with
            the most cores that is sold with that memory.
        macos: macOS version; None for the lower working set of older releases.

    Raises:
        UsageError: `name` is no name, there is no such chip, or it is not sold in that configuration (the hint
            lists those that are); or `macos` is no version.
    """
    match = _NAME.fullmatch(name.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("apple-"))
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
    return _build(chip, max(fitting, key=lambda variant: variant.gpu_cores), memory, macos)


def _build(chip: Chip, variant: Variant, memory_gib: int, macos: str | None) -> NamedMac:
    memory = memory_gib * 2**30
    working_set, observed = chips.working_set(memory, macos)
    return NamedMac(
        name=_full(chip, variant, memory_gib),
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
