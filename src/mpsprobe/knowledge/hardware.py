"""GPUs other than Apple's, and how much of a specification PyTorch reaches on each kind of device.

Data: `data/hardware.toml`, each row with its source. Apple's chips: `mpsprobe.knowledge.chips`.
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
        name: as torch names it, shortened: `"H100 SXM5"`.
        memory_gib: as sold.
        bandwidth_gbs: memory bandwidth, 10^9 bytes a second.
        peak_tflops: dense peak by dtype, 10^12 operations a second.
        sources: pages.
    """

    name: str
    memory_gib: int
    bandwidth_gbs: float
    peak_tflops: dict[str, float]
    sources: list[str]

    @property
    def key(self) -> str:
        """Return the form that users give: `"h100-sxm5"`."""
        return _key(self.name)


class Reached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of a peak that PyTorch reaches.

    Attributes:
        kind: of device: `"mps"` or `"cuda"`.
        families: Apple GPU families; empty for all of that kind.
        what: `"matmul"`, `"conv"` or `"bandwidth"`.
        dtypes: for the first two.
        low, expected, high: share of the peak.
        seen: the measured figures.
        sources: links.
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
    """Return every row."""
    return list(_file().gpus)


def find(name: str) -> Gpu | None:
    """Return the GPU called `name`: its name, or a part of it that only one row has (`"h200"`); None: there is none."""
    wanted = _key(name)
    rows = [row for row in _file().gpus if row.key == wanted]
    rows = rows or [row for row in _file().gpus if wanted and f"-{wanted}-" in f"-{row.key}-"]
    return rows[0] if len(rows) == 1 else None


def reached(kind: str, what: str, *, family: str = "", dtype: str = "") -> Reached | None:
    """Return the share of a peak that PyTorch reaches; None when nobody measured it."""
    for row in _file().reached:
        fits = row.kind == kind and row.what == what and (not row.families or family in row.families)
        if fits and (not row.dtypes or dtype in row.dtypes):
            return row
    return None


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")
