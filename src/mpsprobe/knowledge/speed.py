"""What the host pays for a call, how fast hosts are, and what kernels reach, by release: fitted or published.

Data: `data/speed.toml`, each row with its source. `benchmarks/forecast.py` fits the rows that say so and checks them on
points that were held out. Free of torch.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from mpsprobe import toml

_FILE = Path(__file__).parent / "data" / "speed.toml"


class HostCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What calls cost the host of one kind of device, microseconds.

    Attributes:
        kind: of device: `"mps"` or `"cuda"`.
        host: the processor that the figures are of.
        us: by kind of call (`forecast.kinds.host_kind`), with `module` for `torch.nn.Module.__call__`, `turn` for a
            turn of `generate` beside its calls, and `wait` for hearing of the device.
        graph: what an op beside that costs that runs through MPSGraph; `graph_before_2_7` in older releases.
        inner, inner_graph: an op, and what a graph adds, where C++ calls it and not Python.
        kernel: of the device, the least that a kernel takes.
        graph_kernel: of the device, the least that a graph takes.
        sources: where it was measured, or what it was fitted on.
    """

    kind: str
    host: str
    us: dict[str, float]
    kernel: float
    inner: float
    sources: list[str]
    graph: float = 0.0
    graph_before_2_7: float = 0.0
    inner_graph: float = 0.0
    graph_kernel: float = 0.0

    def graph_in(self, release: str) -> float:
        """Return the cost of a graph in a release."""
        return self.graph_before_2_7 if _within(release, "", "2.7") else self.graph


class SingleThread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Score of one thread of a processor, Geekbench 6 single-core.

    Attributes:
        chip: as macOS writes it.
        score: published, or inferred from that of another chip.
        inferred: no page was read that states it.
        source: the page that states it, or how it was inferred.
    """

    chip: str
    score: float
    source: str
    inferred: bool = False


class KernelShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of a peak that a class of kernels reaches within models, from one torch release to another.

    Attributes:
        what: on MPS `"gemv"` (matmuls of few rows), `"attention"` (few queries against a long cache), `"stream"`,
            `"matmul"`, `"bmm"`, `"conv"`, and `"attention-compute"` (of the ALUs' float32 peak), `"thin-linear"`
            (of what `"gemv"` reaches: several rows of one token each); `"cuda-matmul"` and `"cuda-conv"` elsewhere.
        families: Apple GPU families; empty for all.
        dtypes: empty for all.
        since, until: minor releases, the second not included; empty for open ends.
        share: of the bandwidth for the first three, of what large matmuls reach (`hardware.toml`) for the others.
        sources: links, or `"fitted"`.
    """

    what: str
    families: list[str]
    dtypes: list[str]
    since: str
    until: str
    share: float
    sources: list[str]


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far measurements lie from forecasts: four in five of those held out lie between `low` and `high`.

    Attributes:
        kind: of device.
        basis: `"specification"` or `"calibrated"`.
        bound: what limits the stage, as in `run.TimePart`; empty for all others.
        low, high: measured time over expected time.
        points: how many held-out points that rests on.
    """

    kind: str
    basis: str
    bound: str
    low: float
    high: float
    points: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hosts: list[HostCost]
    single_thread: list[SingleThread]
    kernels: list[KernelShare]
    coverage: list[Coverage]


@functools.cache
def _file() -> _File:
    return toml.load(_FILE, _File)


def host_cost(kind: str) -> HostCost | None:
    """Return what calls cost the host; None for a kind of device that was not measured."""
    return next((row for row in _file().hosts if row.kind == kind), None)


def single_thread(chip: str) -> SingleThread | None:
    """Return the single-thread score of a chip as macOS writes it; None when no source states it."""
    return next((row for row in _file().single_thread if row.chip == chip), None)


def kernel_share(what: str, *, family: str, dtype: str, release: str) -> KernelShare | None:
    """Return the first row that fits; None where nothing is known."""
    for row in _file().kernels:
        fits = row.what == what and (not row.families or family in row.families)
        if fits and (not row.dtypes or dtype in row.dtypes) and _within(release, row.since, row.until):
            return row
    return None


def coverage(kind: str, basis: str, bound: str) -> Coverage | None:
    """Return how far measurements lie from forecasts of a class; that of all classes where it has no row."""
    rows = [row for row in _file().coverage if row.kind == kind and row.basis == basis]
    return next((row for name in (bound, "") for row in rows if row.bound == name), None)


def _within(release: str, since: str, until: str) -> bool:
    at = _numbers(release)
    return (not since or _numbers(since) <= at) and (not until or at < _numbers(until))


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])
