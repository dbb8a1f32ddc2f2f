"""GPUs other than Apple's, and the share of a specification that PyTorch reaches on each kind of device.

The data is in `data/hardware.toml`, each row with its source. Apple's chips are in `mpsprobe.knowledge.chips`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

from mpsprobe import toml

_FILE = Path(__file__).parent / "data" / "hardware.toml"


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One GPU.

    Attributes:
        name: The name as torch reports it, shortened: `"H100 SXM5"`.
        memory_gib: The memory in GiB as sold.
        bandwidth_gbs: The memory bandwidth in 10^9 bytes per second.
        peak_tflops: The dense peak by dtype in 10^12 operations per second.
        sources: The pages that state the figures.
    """

    name: str
    memory_gib: int
    bandwidth_gbs: float
    peak_tflops: dict[str, float]
    sources: list[str]

    @property
    def key(self) -> str:
        """Return the name as users write it: `"h100-sxm5"`."""
        return _key(self.name)


class Reached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of a peak that PyTorch reaches.

    Attributes:
        kind: The kind of device: `"mps"` or `"cuda"`.
        families: The Apple GPU families that the row covers; empty for all devices of that kind.
        what: `"matmul"`, `"conv"` or `"bandwidth"`.
        dtypes: The dtypes that the row covers, for `"matmul"` and `"conv"`.
        low: The lower bound of the share of the peak.
        expected: The expected share of the peak.
        high: The upper bound of the share of the peak.
        seen: The measured figures.
        sources: The links to the measurements.
    """

    kind: str
    families: list[str]
    what: str
    dtypes: list[str]
    low: float
    expected: float
    high: float
    seen: list[str]
    sources: list[str]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gpus: list[Gpu]
    reached: list[Reached]


@functools.cache
def _file() -> _File:
    return toml.load(_FILE, _File)


def gpus() -> list[Gpu]:
    """Return all GPUs."""
    return list(_file().gpus)


def find(name: str) -> Gpu | None:
    """Return the GPU called `name`, or the only one whose name contains it (`"h200"`); None when there is none."""
    wanted = _key(name)
    rows = [row for row in _file().gpus if row.key == wanted]
    rows = rows or [row for row in _file().gpus if wanted and f"-{wanted}-" in f"-{row.key}-"]
    return rows[0] if len(rows) == 1 else None


def reached(kind: str, what: str, *, family: str = "", dtype: str = "") -> Reached | None:
    """Return the share of a peak that PyTorch reaches; None when there is no measurement."""
    for row in _file().reached:
        fits = row.kind == kind and row.what == what and (not row.families or family in row.families)
        if fits and (not row.dtypes or dtype in row.dtypes):
            return row
    return None


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")
