"""Model how long a device takes for one call of an op: peak rates, the share that PyTorch reaches, host cost.

A machine comes from a specification (`of_mac`, `of_gpu`: published peaks, published or fitted shares of them) or
from a calibration of the device itself (`calibration.machine`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mpsprobe.forecast.kinds import VIEW, ConvShape, NormShape
from mpsprobe.knowledge import chips, ops, speed
from mpsprobe.knowledge.speed import Coverage, Gpu, HostCost, NormKernel, Regime
from mpsprobe.mac.catalogue import NamedMac
from mpsprobe.run import Range

#: Floating-point dtypes with their own rate of arithmetic.
FLOATS = ("float32", "float16", "bfloat16")
#: Apple GPU families from this one on have matrix units, which speed up 16-bit matmuls but not float32 ones.
_MATRIX_UNITS = "apple10"
_US = 1e-6
#: The factor by which a range is wider when another chip's GPU clock is used: generations differ by up to a fifth.
_BORROWED_CLOCK = 1.25
#: The share of a graph's cost for an op, other than matmul, that uses a graph on some paths only.
_SOMETIMES = 0.5


@dataclass(frozen=True)
class HostTimes:
    """The cost of calls on the host in seconds.

    Attributes:
        ops: The cost by kind of call (`kinds.host_kind`); a missing kind costs as much as `"stream"`.
        graph: The additional cost of an op that runs through MPSGraph.
        module: The cost of a call of a module.
        turn: The cost of a step of `generate` in addition to its calls.
        wait: The cost of waiting until the device is done.
        inner: The cost of an op that C++ calls, whose code and data are in the caches.
        inner_graph: The additional cost of a graph in such an op.
        autograd: The additional cost of an op of which autograd keeps a node, or that its engine calls.
    """

    ops: Mapping[str, float]
    graph: float = 0.0
    module: float = 0.0
    turn: float = 0.0
    wait: float = 0.0
    inner: float = math.inf
    inner_graph: float = math.inf
    autograd: float = 0.0

    @classmethod
    def of(cls, row: HostCost, scale: float = 1.0, release: str = "99") -> HostTimes:
        """Return the costs of a row of `speed.toml` in a torch release, all but the wait multiplied by `scale`."""
        us = {name: scale * _US * value for name, value in row.us.items()}
        named = {name: us.pop(name, 0.0) for name in ("module", "turn")}
        # the device determines the wait, not the host
        wait = us.pop("wait", 0.0) / scale
        inner, inner_graph, graph = (
            scale * _US * cost for cost in (row.inner, row.inner_graph, row.graph_in(release))
        )
        autograd = scale * _US * row.autograd
        return cls(us, graph, named["module"], named["turn"], wait, inner, inner_graph, autograd)

    def op(self, kind: str) -> float:
        """Return the cost of a call of a kind in seconds, without that of a graph."""
        found = self.ops.get(kind)
        return found if found is not None else self.ops.get("stream", 0.0)


@dataclass(frozen=True)
class Curve:
    """A rate that depends on the size of the work: points by increasing size, interpolated linearly on log scales."""

    sizes: Sequence[float]
    rates: Sequence[float]

    def at(self, size: float) -> float:
        """Return the rate at a size; beyond the first and last point it is that of the nearest one."""
        if size <= self.sizes[0]:
            return self.rates[0]
        if size >= self.sizes[-1]:
            return self.rates[-1]
        k = bisect.bisect_right(self.sizes, size)
        x0, x1 = math.log(self.sizes[k - 1]), math.log(self.sizes[k])
        y0, y1 = math.log(self.rates[k - 1]), math.log(self.rates[k])
        return math.exp(y0 + (y1 - y0) * (math.log(size) - x0) / (x1 - x0))


@dataclass(frozen=True)
class Surface:
    """A rate that depends on the FLOPs of a call and on its FLOPs per byte.

    It is the geometric mean of all measured rates, of which near ones (on log scales) weigh most.

    Attributes:
        points: Tuples of FLOPs, FLOPs per byte, and rate.
    """

    points: Sequence[tuple[float, float, float]]

    def at(self, flops: float, moved: float) -> float:
        """Return the rate of a call: the mean of the measured rates, weighted by how near their calls are.

        Args:
            flops: The FLOPs of the call.
            moved: The bytes that the call reads and writes.
        """
        x, y = math.log(max(flops, 1)), math.log(max(flops, 1) / max(moved, 1))
        total = weights = 0.0
        for size, intensity, rate in self.points:
            # a factor in FLOPs per byte changes the rate more than the same factor in FLOPs
            distance = 0.25 * (math.log(size) - x) ** 2 + (math.log(intensity) - y) ** 2
            weight = 1 / (distance + 1e-3) ** 2
            total, weights = total + weight * math.log(rate), weights + weight
        return math.exp(total / weights)


@dataclass(frozen=True)
class Machine:
    """A device as a forecast uses it. Rates are in FLOP/s and bytes/s, times in seconds.

    Attributes:
        name: The name of the row or the device.
        kind: `"mps"`, `"cuda"` or `"cpu"`.
        basis: `"specification"` or `"calibrated"`.
        peak: The highest rate by dtype; a missing dtype is unknown.
        bandwidth: The peak bandwidth of its memory.
        compute: The reached rate by kind of work (`"matmul"`, `"bmm"`, `"attention"`, `"conv"`) and dtype.
        stream: The reached bandwidth of other work, by bytes of a call.
        weights: The reached bandwidth of a matmul of few rows by dtype (`""` for all others), which reads each
            weight once from memory; infinite where `compute` includes it.
        attention: The reached bandwidth of attention with few queries, which reads the cache.
        host: The cost of calls on the host.
        kernel: The shortest time of a kernel on the device.
        copy: The bandwidth between host and device.
        queued: Whether kernels run asynchronously; False for a CPU.
        graph_kernel: The shortest time of an MPSGraph on the device.
        gap: The time between the end of a kernel and the start of the next one.
        cores: The cores of an Apple GPU; 0 for other devices.
        threadgroup: The time of one threadgroup on one core in a reduction that has one for each result.
        gather: The time of one element on one core where each is fetched from a place of its own.
        data_gradient: The rate of data gradients of convolutions as a share of that of large matmuls; 0 if unknown.
        weight_gradient: That of weight gradients of convolutions.
        norms: The kernel of vector norms that has one threadgroup for each result; None where there is none.
        peaks: The highest rate by kind of work and dtype, where it differs from `peak`.
        streams: The reached bandwidth by kind of such work, where it was timed separately from `stream`.
        passes: The reached bandwidth of ops with a share of their own (`grounds.share_of`).
        thin: The share of `weights` that a linear layer reaches on several rows of one token each, by dtype.
        release: The torch release whose kernels run, for the regimes of ops on MPS; `""` elsewhere.
        lists: Whether optimisers work on lists of tensors, which torch.optim does by itself on CUDA and not on MPS.
        holds_scores: Whether attention writes its scores to memory, as PyTorch's kernel for MPS does; fused
            kernels do not.
        complete: Whether enough is known to expect a time; otherwise only the floor is known.
        slack: A factor that widens the range: 1 where the peak is known, more where another chip's is used.
        notes: Sentences that state the assumptions.
    """

    name: str
    kind: str
    basis: str
    peak: Mapping[str, float]
    bandwidth: float
    compute: Mapping[tuple[str, str], Surface]
    stream: Curve
    weights: Mapping[str, float]
    attention: float
    host: HostTimes
    kernel: float
    copy: float
    queued: bool
    graph_kernel: float = 0.0
    gap: float = 0.0
    cores: int = 0
    threadgroup: float = 0.0
    gather: float = 0.0
    data_gradient: float = 0.0
    weight_gradient: float = 0.0
    norms: NormKernel | None = None
    release: str = ""
    lists: bool = False
    holds_scores: bool = True
    complete: bool = True
    slack: float = 1.0
    peaks: Mapping[tuple[str, str], float] = field(default_factory=dict)
    streams: Mapping[str, Curve] = field(default_factory=dict)
    passes: Mapping[str, float] = field(default_factory=dict)
    thin: Mapping[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def rate(self, kind: str, dtype: str, flops: float, moved: float) -> float | None:
        """Return the expected rate of one call in FLOP/s: for an unmeasured kind that of matmul; None if unknown.

        Kinds of convolutions such as `"conv-3d"` have the rate of `"conv"` unless they have one of their own.
        """
        tried = (kind, kind.partition("-")[0], "matmul")
        surface = next((found for name in tried if (found := self.compute.get((name, dtype)))), None)
        return surface.at(flops, moved) if surface is not None else None

    def filled(self, tiles: int) -> float:
        """Return the mean share of busy cores while `tiles` blocks run, whose last wave may leave some idle."""
        if not tiles or not self.cores:
            return 1.0
        return tiles / (self.cores * math.ceil(tiles / self.cores))

    def spread(self, threadgroups: int) -> float:
        """Return the seconds that `threadgroups` threadgroups take when all cores share them."""
        return threadgroups * self.threadgroup / max(1, self.cores)

    def summed_norm(self, shape: NormShape) -> float:
        """Return the seconds of a norm's arithmetic, one threadgroup for each result; 0 where it is one pass."""
        if self.norms is None or not shape.results or (shape.rows and not self.norms.rows):
            return 0.0
        waves = math.ceil(shape.results / max(1, self.cores))
        return waves * shape.length * self.norms.ns * 1e-9

    def gradients(self, shape: ConvShape, dtype: str) -> float | None:
        """Return the seconds that the gradients of a convolution take; None if their rates are unknown."""
        matmul, conv = (self.rate(kind, dtype, 1.0, 1.0) for kind in ("matmul", "conv"))
        if not matmul or not conv or not self.data_gradient or not self.weight_gradient:
            return None
        data, weight = self.data_gradient * matmul, self.weight_gradient * matmul
        return shape.plain / conv + shape.data / data + shape.weight / weight

    def peak_of(self, kind: str, dtype: str) -> float | None:
        """Return the highest rate of a kind of work in FLOP/s; None when unknown."""
        return self.peaks.get((kind, dtype)) or self.peak.get(dtype)

    def graphs(self, op: str, kind: str) -> float:
        """Return the share of a graph's cost that an op has: 1 through MPSGraph, less if only some paths use it."""
        if self.kind != "mps" or kind in (VIEW, "alloc"):
            return 0.0
        found = speed.regime(op, self.release)
        if found is Regime.BOTH:
            return 1.0 if kind in ("matmul", "conv") else _SOMETIMES
        return 1.0 if found is Regime.GRAPH else 0.0

    def covers(self, bound: str) -> Coverage | None:
        """Return the known ratios of measured to forecast times for a stage with this limit; None without any."""
        return speed.coverage(self.kind, self.basis, bound)


def of_mac(mac: NamedMac, torch: str | None = None) -> Machine:
    """Return a Mac of the catalogue by its specification, with the kernels of a torch release.

    What no source states is left out, and `notes` says so.

    Args:
        mac: The Mac.
        torch: The torch release; None for the newest known one.
    """
    chip = chips.find(mac.chip)
    family = chip.family if chip is not None else ""
    release = ops.resolve_release(torch) if torch else ops.releases()[-1]
    notes: list[str] = []
    peak: dict[str, float] = {}
    if mac.f32_flops is not None:
        f16 = mac.f16_flops
        if f16 is None and family != _MATRIX_UNITS:
            notes.append(
                f"16-bit arithmetic of the {mac.chip} is taken to have float32's peak rate: no source states it."
            )
        peak = {"float32": mac.f32_flops, **dict.fromkeys(("float16", "bfloat16"), f16 or mac.f32_flops)}
    else:
        notes.append(
            f"No source states the GPU clock of the {mac.chip}: only what memory bandwidth allows is known."
        )
    slack = 1.0
    if chip is not None and chip.clock_from and peak:
        slack = _BORROWED_CLOCK
        notes.append(
            f"No source states the GPU clock of the {mac.chip}: that of the {chip.clock_from} stands in, and the range "
            "is wider."
        )
    return replace(_mps(mac, family, release, peak, notes), slack=slack)


def _mps(mac: NamedMac, family: str, release: str, peak: Mapping[str, float], notes: list[str]) -> Machine:
    row = speed.host_cost("mps")
    assert row is not None
    here, scale = speed.single_thread(mac.chip), speed.host_scale(mac.chip)
    if here is not None and here.inferred:
        notes.append(f"The single-thread speed of the {mac.chip} is inferred: {here.source}.")
    if here is None:
        notes.append(
            f"No source states the single-thread speed of the {mac.chip}: that of the {speed.REFERENCE_CHIP} stands in."
        )

    def share(what: str, dtype: str = "") -> float:
        found = speed.kernel_share(what, family=family, dtype=dtype, release=release)
        return found.share if found is not None else 1.0

    compute = {}
    limits = dict(peak)
    for dtype in peak:
        reached = speed.reached("mps", "matmul", family=family, dtype=dtype)
        if reached is None:
            continue
        best = reached.expected * peak[dtype]
        if family == _MATRIX_UNITS and dtype != "float32":
            # `reached` is a share of the ALUs' peak, which matrix units exceed; their own peak is not published
            limits.pop(dtype)
        for work in ("matmul", "bmm", "conv"):
            compute[work, dtype] = Surface([(1.0, 1.0, share(work, dtype) * best)])
        for work in ("conv-3d", "conv-3x3", "conv-few"):
            if speed.kernel_share(work, family=family, dtype=dtype, release=release) is not None:
                compute[work, dtype] = Surface([(1.0, 1.0, share(work, dtype) * best)])
        # attention runs on the ALUs: in a kernel of PyTorch, or as batched matmuls of narrow heads
        compute["attention", dtype] = Surface(
            [(1.0, 1.0, share("attention-compute", dtype) * peak["float32"])]
        )
    if family == _MATRIX_UNITS:
        notes.append(
            f"The matrix units of the {mac.chip} have no published peak: 16-bit matmuls go by published runs of an M5, "
            "and the floor only by memory bandwidth."
        )
    stream = share("stream") * mac.bandwidth
    return Machine(
        name=mac.name,
        kind="mps",
        basis="specification",
        peak=limits,
        bandwidth=mac.bandwidth,
        compute=compute,
        stream=Curve([1.0], [stream]),
        passes={what: share(what) * mac.bandwidth for what in ("index", "sort", "fft", "overlap")},
        weights={dtype: share("gemv", dtype) * mac.bandwidth for dtype in (*FLOATS, "")},
        thin={dtype: share("thin-linear", dtype) for dtype in FLOATS},
        attention=share("attention") * mac.bandwidth,
        host=HostTimes.of(row, scale, release),
        kernel=row.kernel * _US,
        graph_kernel=row.graph_kernel * _US,
        gap=row.gap * _US,
        cores=mac.gpu_cores,
        threadgroup=row.threadgroup_in(release) * _US,
        gather=row.gather * _US,
        data_gradient=share("conv-data"),
        weight_gradient=share("conv-weight"),
        norms=speed.norm_kernel(release),
        # memory is shared, so a copy reads and writes it at least once
        copy=stream / 2,
        queued=True,
        release=release,
        complete=bool(peak),
        notes=notes,
    )


def of_gpu(gpu: Gpu) -> Machine:
    """Return a GPU of the hardware table as a forecast uses it; without measurements only its roofline is known."""
    peak = {dtype: tflops * 1e12 for dtype, tflops in gpu.peak_tflops.items()}
    peaks = {}
    if "bfloat16" in peak:
        # GPUs with bfloat16 units have TF32 ones of half the rate, and PyTorch lets cuDNN use them
        peaks["conv", "float32"] = peak["bfloat16"] / 2
    compute = {}
    for work in ("matmul", "conv"):
        for dtype in peak:
            reached = speed.reached("cuda", work, dtype=dtype)
            if reached is not None:
                rate = peaks.get((work, dtype), peak[dtype])
                within = speed.kernel_share(f"cuda-{work}", family="", dtype=dtype, release="2.0")
                share = within.share if within is not None else 1.0
                compute[work, dtype] = Surface([(1.0, 1.0, share * reached.expected * rate)])
    within = speed.kernel_share("cuda-attention", family="", dtype="", release="2.0")
    if within is not None:
        for (work, dtype), found in list(compute.items()):
            if work == "matmul":
                compute["attention", dtype] = Surface([(1.0, 1.0, within.share * found.at(1.0, 1.0))])
    grouped = speed.kernel_share("cuda-conv-groups", family="", dtype="", release="2.0")
    if grouped is not None and "float32" in peak:
        compute |= {
            ("conv-groups", dtype): Surface([(1.0, 1.0, grouped.share * peak["float32"])]) for dtype in peak
        }
    bandwidth = gpu.bandwidth_gbs * 1e9
    reached = speed.reached("cuda", "bandwidth")
    row = speed.host_cost("cuda")
    stream = (reached.expected if reached is not None else 1.0) * bandwidth
    complete = bool(peak) and reached is not None and row is not None
    return Machine(
        name=gpu.name,
        kind="cuda",
        basis="specification",
        peak=peak,
        bandwidth=bandwidth,
        compute=compute,
        stream=Curve([1.0], [stream]),
        weights={"": stream},
        attention=stream,
        host=HostTimes.of(row) if row is not None else HostTimes({}),
        kernel=row.kernel * _US if row is not None else 0.0,
        copy=stream / 2,
        queued=True,
        lists=True,
        holds_scores=False,
        complete=complete,
        peaks=peaks,
        notes=[]
        if complete
        else [f"Nobody measured what PyTorch reaches on {gpu.name}: only the roofline is known."],
    )


def summed(ranges: Sequence[Range]) -> Range:
    """Return the range of consecutive parts, which are assumed to deviate alike; only the floor if one is unknown.

    Without the bounds of one part, the sum has none.
    """
    known = [one for one in ranges if one.expected is not None]
    if len(known) < len(ranges):
        return Range(sum(one.floor for one in ranges))
    if any(one.high is None for one in ranges):
        return Range(sum(one.floor for one in ranges), sum(one.expected or 0 for one in ranges))
    return Range(
        sum(one.floor for one in ranges),
        sum(one.expected or 0 for one in ranges),
        sum(one.low or 0 for one in ranges),
        sum(one.high or 0 for one in ranges),
    )
