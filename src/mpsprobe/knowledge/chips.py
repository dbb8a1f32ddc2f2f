"""Apple's M-series chips: cores, memory, bandwidth, peak rates, and Metal's recommended share of memory."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge._pasted import macos_version

#: The high watermark ratio of MPSAllocator.h (kDefaultHighWatermarkRatio), relative to Metal's recommended working set:
#: beyond it the allocator raises, unless PYTORCH_MPS_HIGH_WATERMARK_RATIO sets another ratio.
HIGH_WATERMARK = 1.7

_FILE = Path(__file__).parent / "data" / "chips.toml"

_GIB = 2**30
#: The size of a memory page on Apple silicon in bytes.
_PAGE = 16384
#: The number of multiply-add units of one GPU core; see `alus_source` in the data file.
_ALUS_PER_CORE = 128


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One number of GPU cores with which a chip is sold, with its memory sizes and bandwidth.

    Attributes:
        gpu_cores: The number of GPU cores.
        memory_gib: The sizes of unified memory in GiB.
        bandwidth_gbs: The memory bandwidth in 10^9 bytes per second.
    """

    gpu_cores: int
    memory_gib: list[int]
    bandwidth_gbs: float


class Chip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Apple chip of the M series, with its peak rates and the configurations in which it is sold.

    Attributes:
        name: The name as macOS writes it, such as `"Apple M1 Max"`.
        family: The Apple GPU family of Metal's feature tables, such as `"apple7"`.
        variants: The configurations, by increasing number of GPU cores.
        sources: Where this row was read: pages, or `"log: "` and a line of a public log.
        gpu_clock_mhz: The highest GPU clock in MHz; None when no source was found.
        clock_from: The chip whose clock is used, where no source states this one's; empty where one does.
        f16_per_f32: The float16 rate divided by the float32 rate; None when no source was found.
    """

    name: str
    family: str
    variants: list[Variant]
    sources: list[str]
    gpu_clock_mhz: int | None = None
    clock_from: str = ""
    f16_per_f32: float | None = None

    @property
    def key(self) -> str:
        """Return the chip's name as names of Macs contain it: `"m1-max"`."""
        return self.name.removeprefix("Apple ").lower().replace(" ", "-")

    def peak_flops(self, gpu_cores: int, dtype: str) -> float | None:
        """Return the ALUs' peak in floating-point operations per second, with a multiply-add counted as two.

        Args:
            gpu_cores: The number of GPU cores.
            dtype: `"float32"` or `"float16"`; other dtypes are unknown.

        Returns:
            The peak; None where the clock or the rate of the dtype is unknown.
        """
        if self.gpu_clock_mhz is None:
            return None
        f32 = gpu_cores * _ALUS_PER_CORE * 2 * self.gpu_clock_mhz * 1e6
        if dtype == "float32":
            return f32
        return f32 * self.f16_per_f32 if dtype == "float16" and self.f16_per_f32 is not None else None


class WorkingSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A recommendedMaxWorkingSetSize that was observed on a Mac, as a share of its memory.

    Attributes:
        memory_gib: The physical memory of that Mac in GiB.
        since_macos: The first major macOS version for which the share holds.
        share: The recommendedMaxWorkingSetSize divided by the physical memory, from 0 to 1.
        source: Where it was read.
    """

    memory_gib: int
    since_macos: int
    share: float
    source: str


class BufferLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A maxBufferLength of Metal that was observed on a Mac.

    Attributes:
        chip: The chip as macOS writes it.
        memory_bytes: The physical memory of that Mac in bytes.
        working_set_bytes: Its recommendedMaxWorkingSetSize in bytes, without a user's own `iogpu.wired_limit_mb`.
        length_bytes: Its maxBufferLength in bytes.
        source: Where it was read.
    """

    chip: str
    memory_bytes: int
    working_set_bytes: int
    length_bytes: int
    source: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alus_source: str
    buffer_share: float
    chips: list[Chip]
    working_sets: list[WorkingSet]
    buffers: list[BufferLimit]


@functools.cache
def _file() -> _File:
    return toml.load(_FILE, _File)


def all_chips() -> list[Chip]:
    """Return every chip, in the order of their release."""
    return list(_file().chips)


def working_set_observations() -> list[WorkingSet]:
    """Return the observed values of recommendedMaxWorkingSetSize on which `working_set` is based."""
    return list(_file().working_sets)


def find(name: str) -> Chip | None:
    """Return the chip called `name`: `"Apple M1 Max"`, `"m1-max"` or `"M1 Max"`; None when unknown."""
    key = name.lower().removeprefix("apple ").replace(" ", "-")
    return next((chip for chip in _file().chips if chip.key == key), None)


def working_set(memory_bytes: int, macos: str | None = None) -> tuple[int, WorkingSet]:
    """Predict recommendedMaxWorkingSetSize, the bytes that Metal advises a process to use on a Mac.

    The share is taken from the newest observed macOS that is not newer than `macos`, and there from the Mac with
    the most memory that is not more than this one's. Where that macOS has no Mac with so little memory, the next
    older one with such a Mac decides. A Mac with less memory than every observed one is treated as the smallest
    observed one. Without `macos` the oldest observations are used, because their shares are the smallest.

    Args:
        memory_bytes: The physical memory in bytes.
        macos: The macOS version, such as `"15.5"`; None or `"unknown"` (see `run.Host`) when unknown.

    Returns:
        The size in bytes, and the observation that it is based on.

    Raises:
        UsageError: `macos` is not a version.
    """
    rows = _file().working_sets
    oldest = min(row.since_macos for row in rows)
    major = macos_version(macos).major if macos and macos != "unknown" else oldest
    smallest = min(row.memory_gib for row in rows)
    fitting = [
        row
        for row in rows
        if row.since_macos <= max(major, oldest)
        and (row.memory_gib * _GIB <= memory_bytes or row.memory_gib == smallest)
    ]
    newest = max(row.since_macos for row in fitting)
    row = max((row for row in fitting if row.since_macos == newest), key=lambda row: row.memory_gib)
    return int(memory_bytes * row.share), row


def buffer_observations() -> list[BufferLimit]:
    """Return the observed limits from which `max_buffer` is derived."""
    return list(_file().buffers)


def max_buffer(memory_bytes: int, macos: str | None = None) -> int:
    """Predict Metal's maxBufferLength in bytes: PyTorch refuses a buffer of this size or more ("Invalid buffer size").

    Every Mac in `buffer_observations` reports three quarters of its recommended working set, rounded down to a page
    of 16 KiB; a working set raised with `iogpu.wired_limit_mb` does not raise it. The prediction is therefore as
    certain as that of `working_set`.

    Args:
        memory_bytes: The physical memory in bytes.
        macos: The macOS version; see `working_set`.

    Raises:
        UsageError: `macos` is not a version.
    """
    length = int(_file().buffer_share * working_set(memory_bytes, macos)[0])
    return length // _PAGE * _PAGE
