"""Published and fitted speeds: host cost of a call, rates of kernels, other GPUs, and how each op runs on MPS.

The data in `data/speed.toml` is fitted or published, each row with its source. `benchmarks/forecast.py` fits the
rows that say so, and checks them on points that were held out. Nothing imports torch.

GPUs other than Apple's are in `data/hardware.toml`, with the share of a specification that PyTorch reaches on each
kind of device; Apple's chips are in `mpsprobe.knowledge.chips`. `data/regimes.json`, read from the macOS wheels by
`tools/op_support/regimes.py`, states whether an op runs in a Metal kernel of PyTorch or through MPSGraph: the latter
costs the host some 20 µs, a native Metal kernel 1.3 µs (https://github.com/pytorch/pytorch/issues/148219), and each
release moves ops from the first to the second.
"""

from __future__ import annotations

import enum
import functools
import math
import re
from pathlib import Path

import msgspec

from mpsprobe import toml

_FILE = Path(__file__).parent / "data" / "speed.toml"

#: The chip for which costs of the host are stated: of calls, and of the layers of an engine.
REFERENCE_CHIP = "Apple M1 Max"


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
        threadgroup_until: The minor release before which reductions have such kernels.
        gather: The time of an element on one core where each is fetched from a place of its own.
        autograd: The additional cost of an op of which autograd keeps a node, or that its engine calls.
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
    threadgroup_until: str = ""
    gather: float = 0.0
    autograd: float = 0.0

    def threadgroup_in(self, release: str) -> float:
        """Return the time of a threadgroup in reductions that have one for each result; 0 where none has."""
        return self.threadgroup if _within(release, "", self.threadgroup_until) else 0.0

    def graph_in(self, release: str) -> float:
        """Return the additional cost of a graph in a release, in microseconds."""
        return self.graph_before_2_7 if _within(release, "", "2.7") else self.graph


class NormKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel for vector norms that gives each result one threadgroup, in a range of torch releases.

    Attributes:
        since: The first minor release.
        until: The minor release before which the row ends.
        ns: The time of one element in nanoseconds while a core runs one threadgroup.
        rows: Whether norms of the rows of a contiguous tensor run in it too, rather than in a kernel of their own.
        sources: The links to the sources, or `"fitted"`.
    """

    since: str
    until: str
    ns: float
    rows: bool
    sources: list[str]


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
            `"index"`, `"sort"`, `"matmul"`, `"bmm"`, `"conv"`, `"conv-3d"`, `"conv-3x3"` and `"conv-few"` (by shapes,
            `grounds.share_of`), `"conv-data"` and `"conv-weight"` (gradients, as shares of what large matmuls reach),
            `"attention-compute"` (a share of the ALUs' float32 peak) and `"thin-linear"` (a share of what `"gemv"`
            reaches, for several rows of one token each); elsewhere `"cuda-matmul"`, `"cuda-conv"` and
            `"cuda-conv-groups"` (a share of float32's peak) and `"cuda-attention"` (of the rate of matmuls).
        families: The Apple GPU families that the row covers; empty for all.
        dtypes: The dtypes that the row covers; empty for all.
        since: The first minor release; empty for no bound.
        until: The minor release before which the row ends; empty for no bound.
        share: The share of the bandwidth for the first five, of what `what` says for `"attention-compute"` and
            `"thin-linear"`, and of the rate of large matmuls (`hardware.toml`) for the others.
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
    """A range of the ratio of measured to forecast time that holds four in five held-out measurements.

    Attributes:
        kind: The kind of device.
        basis: `"specification"` or `"calibrated"`.
        bound: The resource that limits the stage, as in `run.TimePart`; empty for all others.
        low: The lower end of the ratio; below 1 where measurements were faster than forecast.
        high: The upper end of the ratio.
        points: The number of held-out measurements.
    """

    kind: str
    basis: str
    bound: str
    low: float
    high: float
    points: int


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hosts: list[HostCost]
    norms: list[NormKernel]
    surprises: dict[str, float]
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
    """Return the single-thread score of a chip, by its name on macOS; None when no source states it."""
    return next((row for row in _file().single_thread if row.chip == chip), None)


def host_scale(chip: str) -> float:
    """Return how many times as long the host of a chip takes as that of `REFERENCE_CHIP`; 1 when no source states it.

    The costs of calls in `speed.toml` and of layers in `engines.toml` are stated for the reference.
    """
    here, reference = single_thread(chip), single_thread(REFERENCE_CHIP)
    assert reference is not None
    return reference.score / here.score if here is not None else 1.0


def kernel_share(what: str, *, family: str, dtype: str, release: str) -> KernelShare | None:
    """Return the first row that covers these kernels, family, dtype and release; None where none does."""
    for row in _file().kernels:
        fits = row.what == what and (not row.families or family in row.families)
        if fits and (not row.dtypes or dtype in row.dtypes) and _within(release, row.since, row.until):
            return row
    return None


def surprise() -> float:
    """Return the factor within which, four times in five, a kind of kernel stayed once somebody measured it."""
    factors = sorted(_file().surprises.values())
    return factors[math.ceil(0.8 * (len(factors) + 1)) - 1]


def norm_kernel(release: str) -> NormKernel | None:
    """Return the kernel of vector norms in a torch release; None where norms read memory in one pass."""
    return next((row for row in _file().norms if _within(release, row.since, row.until)), None)


def coverage(kind: str, basis: str, bound: str) -> Coverage | None:
    """Return how measured times of a class compare with forecasts: an interval of the ratio of the two.

    A class without a row of its own has the interval of all classes; None where nothing is known.

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


_GPU_FILE = Path(__file__).parent / "data" / "hardware.toml"


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU other than Apple's, with its specification.

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
        """Return the GPU's name as users write it: `"h100-sxm5"`."""
        return _gpu_key(self.name)


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


class _GpuFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    gpus: list[Gpu]
    reached: list[Reached]


@functools.cache
def _gpu_file() -> _GpuFile:
    return toml.load(_GPU_FILE, _GpuFile)


def gpus() -> list[Gpu]:
    """Return every GPU of `data/hardware.toml`."""
    return list(_gpu_file().gpus)


def find_gpu(name: str) -> Gpu | None:
    """Return the GPU called `name`, or the only one with it in its name (`"h200"`); None for none or several."""
    wanted = _gpu_key(name)
    rows = [row for row in _gpu_file().gpus if row.key == wanted]
    rows = rows or [row for row in _gpu_file().gpus if wanted and f"-{wanted}-" in f"-{row.key}-"]
    return rows[0] if len(rows) == 1 else None


def reached(kind: str, what: str, *, family: str = "", dtype: str = "") -> Reached | None:
    """Return the first row that covers this kind of device, work, family and dtype; None where none does."""
    for row in _gpu_file().reached:
        fits = row.kind == kind and row.what == what and (not row.families or family in row.families)
        if fits and (not row.dtypes or dtype in row.dtypes):
            return row
    return None


def _gpu_key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


_REGIME_FILE = Path(__file__).parent / "data" / "regimes.json"


class Regime(str, enum.Enum):
    """How the MPS kernel of an op runs: in Metal or through MPSGraph, as read in the library's machine code."""

    METAL = "M"  #: a Metal kernel of PyTorch, directly or through a dispatch stub
    GRAPH = "G"  #: MPSGraph on every path that computes
    BOTH = "B"  #: MPSGraph on some paths, a Metal kernel or an MPS matrix kernel on others
    MATRIX = "K"  #: a kernel of Metal Performance Shaders without a graph
    OTHER = "o"  #: no kernel of its own: it calls other ops, or only describes memory


class _RegimeFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data file: `ops[name]` has one letter a release, `-` where the release has no MPS kernel of that name."""

    source: str
    wheels: list[str]
    releases: list[str]
    ops: dict[str, str]


@functools.cache
def _regime_file() -> _RegimeFile:
    return msgspec.json.decode(_REGIME_FILE.read_bytes(), type=_RegimeFile)


def releases_with_regimes() -> list[str]:
    """Return the minor releases that were read, oldest first."""
    return list(_regime_file().releases)


@functools.cache
def regime(op: str, release: str) -> Regime | None:
    """Return how an op runs on MPS in a release.

    Args:
        op: The overload name, with or without `aten::`, such as `"aten::add.Tensor"`.
        release: The minor release, such as `"2.8"`; one newer than all known counts as the newest known.

    Returns:
        The regime; None where that release has no MPS kernel of that name, or is older than the oldest known.
    """
    known = _regime_file()
    at = _position(release)
    if at is None:
        return None
    name = op.removeprefix("aten::")
    # `copy_` and the ops that call it end in `_copy_from`
    name = "_copy_from" if name in ("copy_", "clone", "_to_copy", "contiguous") else name
    letter = known.ops.get(name, "-" * len(known.releases))[at]
    return None if letter == "-" else Regime(letter)


def became_metal(op: str) -> str | None:
    """Return the first torch release since which an op never uses MPSGraph; None if the newest does, or if unknown."""
    row = _regime_file().ops.get(op.removeprefix("aten::"))
    if row is None:
        return None
    letters = [
        (release, letter)
        for release, letter in zip(_regime_file().releases, row, strict=True)
        if letter != "-"
    ]
    graphs = [k for k, (_, letter) in enumerate(letters) if letter in "GB"]
    if not graphs:
        return letters[0][0] if letters else None
    return letters[graphs[-1] + 1][0] if graphs[-1] + 1 < len(letters) else None


def _position(release: str) -> int | None:
    known = _regime_file().releases
    if release in known:
        return known.index(release)
    wanted = tuple(int(part) for part in release.split(".")[:2])
    ordered = [tuple(int(part) for part in one.split(".")) for one in known]
    older = [k for k, one in enumerate(ordered) if one <= wanted]
    return older[-1] if older else None
