"""Apple's M-series chips: cores, memory, bandwidth, peak rates, and Metal's recommended share of memory."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge._versions import macos_version

#: The high watermark ratio of MPSAllocator.h (kDefaultHighWatermarkRatio), relative to Metal's recommended working set:
#: past it the allocator raises, unless PYTORCH_MPS_HIGH_WATERMARK_RATIO says otherwise.
HIGH_WATERMARK = 1.7

_FILE = Path(__file__).parent / "data" / "chips.toml"

_GIB = 2**30
#: Bytes of a memory page on Apple silicon.
_PAGE = 16384
#: Multiply-add units of one GPU core; see `alus_source` in the data file.
_ALUS_PER_CORE = 128


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One configuration in which a chip is sold.

    Attributes:
        gpu_cores: number of GPU cores.
        memory_gib: sizes of unified memory, GiB.
        bandwidth_gbs: memory bandwidth, 10^9 bytes a second.
    """

    gpu_cores: int
    memory_gib: list[int]
    bandwidth_gbs: float


class Chip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chip.

    Attributes:
        name: as macOS writes it: `"Apple M1 Max"`.
        family: Apple GPU family of Metal's feature tables: `"apple7"`.
        variants: what is sold, by growing number of GPU cores.
        sources: where this row was read: pages, or `"log: "` and a line of a public log.
        gpu_clock_mhz: highest GPU clock; None when no source was found.
        clock_from: the chip whose clock that is, where no source states this one's; empty where one does.
        f16_per_f32: float16 rate over float32 rate; None when no source was found.
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
        """Return the form used in names of Macs: `"m1-max"`."""
        return self.name.removeprefix("Apple ").lower().replace(" ", "-")

    def peak_flops(self, gpu_cores: int, dtype: str) -> float | None:
        """Peak floating-point operations a second of the ALUs, a multiply-add counted as two.

        Args:
            gpu_cores: number of GPU cores.
            dtype: `"float32"` or `"float16"`; other dtypes are unknown.

        Returns:
            None where the clock or the rate of the dtype is not known.
        """
        if self.gpu_clock_mhz is None:
            return None
        f32 = gpu_cores * _ALUS_PER_CORE * 2 * self.gpu_clock_mhz * 1e6
        if dtype == "float32":
            return f32
        return f32 * self.f16_per_f32 if dtype == "float16" and self.f16_per_f32 is not None else None


class WorkingSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """recommendedMaxWorkingSetSize that was observed on a Mac, as a share of its memory.

    Attributes:
        memory_gib: physical memory of that Mac, GiB.
        since_macos: first major macOS version for which the share holds.
        share: of physical memory.
        source: where it was read.
    """

    memory_gib: int
    since_macos: int
    share: float
    source: str


class BufferLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """maxBufferLength of Metal that was observed on a Mac.

    Attributes:
        chip: as macOS writes it.
        memory_bytes: physical memory of that Mac.
        working_set_bytes: its recommendedMaxWorkingSetSize without a user's own `iogpu.wired_limit_mb`.
        length_bytes: its maxBufferLength.
        source: where it was read.
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
    """Return every chip, in the order in which they appeared."""
    return list(_file().chips)


def working_set_observations() -> list[WorkingSet]:
    """Return what `working_set` goes by."""
    return list(_file().working_sets)


def find(name: str) -> Chip | None:
    """Return the chip called `name`: `"Apple M1 Max"`, `"m1-max"` or `"M1 Max"`; None when it is not known."""
    key = name.lower().removeprefix("apple ").replace(" ", "-")
    return next((chip for chip in _file().chips if chip.key == key), None)


def working_set(memory_bytes: int, macos: str | None = None) -> tuple[int, WorkingSet]:
    """Return what Metal would recommend as the largest working set: predicted, never measured.

    The share of the observed Mac with the most memory not above this one, of the newest macOS observed that
    is not above `macos`. A size below every observation of that time is taken from the time before, whose
    shares are smaller. Without `macos` the oldest shares are used, as they are the smallest.

    Args:
        memory_bytes: physical memory.
        macos: macOS version, e.g. `"15.5"`; None or `"unknown"` (see `run.Host`) when it is not known.

    Returns:
        Bytes, and the observation they rest on.

    Raises:
        UsageError: `macos` is no version.
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
    """Return the observed limits that `max_buffer` is derived from."""
    return list(_file().buffers)


def max_buffer(memory_bytes: int, macos: str | None = None) -> int:
    """Predict Metal's maxBufferLength, bytes: PyTorch refuses a buffer of this size or more ("Invalid buffer size").

    Every Mac in `buffer_observations` reports three quarters of its recommended working set, rounded down to a page
    of 16 KiB; a working set raised with `iogpu.wired_limit_mb` does not raise it. So the limit is as certain as
    `working_set` is.

    Args:
        memory_bytes: physical memory.
        macos: as for `working_set`.

    Raises:
        UsageError: `macos` is no version.
    """
    length = int(_file().buffer_share * working_set(memory_bytes, macos)[0])
    return length // _PAGE * _PAGE
