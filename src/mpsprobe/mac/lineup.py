"""Macs asked about by name: `m1-max-64`, or `m1-max-24c-64` where the number of GPU cores matters."""

from __future__ import annotations

import difflib
import re

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import chips
from mpsprobe.knowledge.chips import Chip, Variant

_NAME = re.compile(r"(?P<chip>m\d+(?:-(?:pro|max|ultra))?)(?:-(?P<cores>\d+)c)?-(?P<memory>\d+)(?:gb)?")


class NamedMac(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Mac that is not at hand: every figure is predicted from `knowledge/data/chips.toml`.

    Attributes:
        name: full name, `"m1-max-32c-64"`.
        chip: as macOS writes it, `"Apple M1 Max"`.
        family: Apple GPU family, `"apple7"`.
        gpu_cores: number of GPU cores.
        memory_bytes: physical memory.
        bandwidth: of the memory, bytes a second.
        f32_flops, f16_flops: peak of the ALUs, operations a second; None when not known.
        macos: version asked about; None when it was left open.
        working_set_bytes: predicted recommendedMaxWorkingSetSize.
        working_set_rule: how that was predicted.
        sources: where the facts were read.
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


def names() -> list[str]:
    """Return every full name, such as `m1-max-24c-32`."""
    return [
        _full(chip, variant, gib)
        for chip in chips.all_chips()
        for variant in chip.variants
        for gib in variant.memory_gib
    ]


def named(name: str, macos: str | None = None) -> NamedMac:
    """Return the Mac called `name`: chip, GPU cores (the most sold with that memory when left out), memory in GB.

    Args:
        name: `"m1-max-64"`, `"m1-max-24c-64"`, `"m4-16"`.
        macos: macOS version; left out, the cautious figure of the older releases is used.

    Raises:
        UsageError: not a name, no such chip, or not sold so (the hint names what is); no macOS version.
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
    return f"{example} The form is CHIP[-CORESc]-MEMORY."
