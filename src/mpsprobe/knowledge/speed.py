"""The cost of a call on the host, the speed of hosts, and the rates that kernels reach, by release.

The data in `data/speed.toml` is fitted or published, each row with its source. `benchmarks/forecast.py` fits the
rows that say so, and checks them on points that were held out. Nothing imports torch.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from mpsprobe import toml

_FILE = Path(__file__).parent / "data" / "speed.toml"


class HostCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cost of calls on the host for one kind of device, in microseconds.

    Attributes:
        kind: The kind of device: `"mps"` or `"cuda"`.
        host: The processor that the figures are for.
        us: The cost by kind of call (`forecast.kinds.host_kind`), with `module` for `torch.nn.Module.__call__`,
            `turn` for a step of `generate` in addition to its calls, and `wait` for a wait for the device.
        kernel: The least time of a kernel on the device.
        inner: The cost of an op that C++ calls rather than Python.
        sources: Where it was measured, or what it was fitted on.
        graph: The additional cost of an op that runs through MPSGraph, from torch 2.7 on.
        graph_before_2_7: The additional cost of such an op before torch 2.7.
        inner_graph: The additional cost of a graph where C++ calls the op.
        graph_kernel: The least time of a graph on the device.
        gap: The time between the end of a kernel and the start of the next one on the device.
        threadgroup: The time of a threadgroup on one core in a reduction that has one for each result.
        gather: The time of an element on one core where each is fetched from a place of its own.
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
    gap: float = 0.0
    threadgroup: float = 0.0
    gather: float = 0.0

    def graph_in(self, release: str) -> float:
        """Return the additional cost of a graph in a release, in microseconds."""
        return self.graph_before_2_7 if _within(release, "", "2.7") else self.graph


class SingleThread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The single-thread score of a processor, Geekbench 6 single-core.

    Attributes:
        chip: The chip as macOS writes it.
        score: The score, published or inferred from that of another chip.
        source: The page that states it, or how it was inferred.
        inferred: Whether no page was found that states it.
    """

    chip: str
    score: float
    source: str
    inferred: bool = False


class KernelShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of a peak that a class of kernels reaches within models, in a range of torch releases.

    Attributes:
        what: On MPS `"gemv"` (matmuls of few rows), `"attention"` (few queries against a long cache), `"stream"`,
            `"matmul"`, `"bmm"`, `"conv"`, `"attention-compute"` (a share of the ALUs' float32 peak) and
            `"thin-linear"` (a share of what `"gemv"` reaches, for several rows of one token each); elsewhere
            `"cuda-matmul"` and `"cuda-conv"`.
        families: The Apple GPU families that the row covers; empty for all.
        dtypes: The dtypes that the row covers; empty for all.
        since: The first minor release; empty for no bound.
        until: The minor release before which the row ends; empty for no bound.
        share: The share of the bandwidth for the first three, and of the rate of large matmuls (`hardware.toml`)
            for the others.
        sources: The links to the sources, or `"fitted"`.
    """

    what: str
    families: list[str]
    dtypes: list[str]
    since: str
    until: str
    share: float
    sources: list[str]


class Coverage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The distance of measurements from forecasts: four in five held-out ones lie between `low` and `high`.

    Attributes:
        kind: The kind of device.
        basis: `"specification"` or `"calibrated"`.
        bound: The resource that limits the stage, as in `run.TimePart`; empty for all others.
        low: The lower bound of measured time over expected time.
        high: The upper bound of measured time over expected time.
        points: The number of held-out points behind it.
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
    """Return the cost of calls on the host; None for a kind of device that was not measured."""
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
    """Return the interval of measured over forecast times of a class, or of all classes where it has no row.

    Args:
        kind: The kind of device.
        basis: `"specification"` or `"calibrated"`.
        bound: The resource that limits the stage.
    """
    rows = [row for row in _file().coverage if row.kind == kind and row.basis == basis]
    return next((row for name in (bound, "") for row in rows if row.bound == name), None)


def _within(release: str, since: str, until: str) -> bool:
    at = _numbers(release)
    return (not since or _numbers(since) <= at) and (not until or at < _numbers(until))


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:2])
