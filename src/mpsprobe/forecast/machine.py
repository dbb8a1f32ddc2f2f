"""How long a device takes for one call of an op: its peaks, what PyTorch reaches of them, what a call costs.

Two kinds: from a specification (`of_mac`, `of_gpu`: published peaks, published shares of them) and from a calibration
of the very device (`calibration.machine`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpsprobe.forecast.kinds import VIEW
from mpsprobe.knowledge import chips, hardware
from mpsprobe.knowledge.hardware import Delay, Gpu
from mpsprobe.mac.lineup import NamedMac
from mpsprobe.run import Range

#: Dtypes whose arithmetic is floating-point arithmetic of a rate of its own.
FLOATS = ("float32", "float16", "bfloat16")
#: Apple GPUs from here on have matrix units whose rate no source states: their peak is not known.
_MATRIX_UNITS = "apple10"
_US = 1e-6
#: Published shares are of large square matmuls. Models reach less: the slowest of docs/forecast.md's table came to this
#: share of the least published one.
_MODELS = 0.75


@dataclass(frozen=True)
class Spread:
    """A value between what is likely at worst and at best.

    Attributes:
        low, expected, high: low <= expected <= high.
    """

    low: float
    expected: float
    high: float

    @classmethod
    def of(cls, row: Delay) -> Spread:
        """A delay in seconds."""
        return cls(row.low * _US, row.expected * _US, row.high * _US)


#: Exactly as expected.
_CERTAIN = Spread(1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Curve:
    """A rate that depends on the size of the work: points by growing size, straight lines between on log scales."""

    sizes: Sequence[float]
    rates: Sequence[float]

    def at(self, size: float) -> float:
        """The rate at a size; that of the nearest point beyond the ends."""
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
    """A rate that depends on the FLOPs of a call and on its FLOPs a byte.

    Measured points; between them a mean of all, weighted by their nearness on log scales.

    Attributes:
        points: FLOPs, FLOPs a byte, rate.
    """

    points: Sequence[tuple[float, float, float]]

    def at(self, flops: float, moved: float) -> float:
        """The rate of a call that does so many FLOPs and moves so many bytes."""
        x, y = math.log(max(flops, 1)), math.log(max(flops, 1) / max(moved, 1))
        total = weights = 0.0
        for size, intensity, rate in self.points:
            # a factor in FLOPs a byte tells more of the rate than the same factor in FLOPs
            distance = 0.25 * (math.log(size) - x) ** 2 + (math.log(intensity) - y) ** 2
            weight = 1 / (distance + 1e-3) ** 2
            total, weights = total + weight * math.log(rate), weights + weight
        return math.exp(total / weights)


@dataclass(frozen=True)
class Machine:
    """A device as a forecast sees it. Rates are FLOP/s and bytes/s, times seconds.

    Attributes:
        name: of the row or the device.
        basis: where the figures come from.
        peak: highest rate by dtype; a dtype that is missing is unknown.
        peaks: the same of a kind of work that has another.
        bandwidth: of its memory, at its peak.
        compute: reached rate by kind of work (`"matmul"`, `"attention"`, `"conv"`) and dtype.
        stream: reached bandwidth of what is not one of those, by bytes of a call.
        streams: the same for kinds of such work that were timed apart.
        weights: reached bandwidth of a matmul that reads each weight once, from memory; infinite where `compute` has
            that in it.
        compute_share: how far a reached rate may be from the expected one, by kind and dtype: low and high as shares
            of it.
        stream_share: the same for `stream`.
        op, view: of the host, to dispatch an op with a kernel, and a view.
        ops: of the host, for the kinds of ops whose dispatch was timed apart.
        loop: of the host, for a turn of transformers' `generate` beside its ops.
        kernel: of the device, the least a kernel takes.
        wait: of the host, to hear that the device is done.
        copy: bandwidth between host and device.
        queued: kernels run behind the host's back; False for a CPU.
        holds_scores: attention writes its scores to memory, as PyTorch's kernel for MPS does; fused kernels do not.
        complete: enough is known to expect a time; else there is the floor alone.
        notes: what is assumed, one sentence each.
    """

    name: str
    basis: str
    peak: Mapping[str, float]
    bandwidth: float
    compute: Mapping[tuple[str, str], Surface]
    stream: Curve
    weights: float
    compute_share: Mapping[tuple[str, str], Spread]
    stream_share: Spread
    op: Spread
    view: Spread
    loop: Spread
    kernel: Spread
    wait: Spread
    copy: float
    queued: bool
    holds_scores: bool = True
    complete: bool = True
    ops: Mapping[str, Spread] = field(default_factory=dict)
    peaks: Mapping[tuple[str, str], float] = field(default_factory=dict)
    streams: Mapping[str, Curve] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def rate(self, kind: str, dtype: str, flops: float, moved: float) -> float | None:
        """The rate that is expected of work of a kind; None when it is unknown."""
        surface = self.compute.get((kind, dtype)) or self.compute.get(("matmul", dtype))
        return surface.at(flops, moved) if surface is not None else None

    def share(self, kind: str, dtype: str) -> Spread:
        """How far that rate may be off."""
        return self.compute_share.get((kind, dtype)) or self.compute_share.get(("matmul", dtype), _CERTAIN)

    def peak_of(self, kind: str, dtype: str) -> float | None:
        """The highest rate of work of a kind; None when it is unknown."""
        return self.peaks.get((kind, dtype)) or self.peak.get(dtype)

    def dispatch(self, kind: str) -> Spread:
        """Seconds of the host for an op of a kind."""
        return self.view if kind == VIEW else self.ops.get(kind, self.op)


def of_mac(mac: NamedMac) -> Machine:
    """A named Mac by its specification. What no source states is left out, and `notes` says so."""
    chip = chips.find(mac.chip)
    family = chip.family if chip is not None else ""
    if family == _MATRIX_UNITS:
        note = (
            f"The GPU of the {mac.chip} has matrix units whose rate no source states: only what memory bandwidth "
            "allows is known. mpsprobe calibrate on such a Mac tells more."
        )
        return _specified("mps", mac.name, {}, mac.bandwidth, family, [note])
    if mac.f32_flops is None:
        note = (
            f"No source states the GPU clock of the {mac.chip}: only what memory bandwidth allows is known."
        )
        return _specified("mps", mac.name, {}, mac.bandwidth, family, [note])
    notes = []
    f16 = mac.f16_flops
    if f16 is None:
        f16 = mac.f32_flops
        notes.append(
            f"16-bit arithmetic of the {mac.chip} is taken to have float32's peak rate: no source states it."
        )
    peak = {"float32": mac.f32_flops, "float16": f16, "bfloat16": f16}
    return _specified("mps", mac.name, peak, mac.bandwidth, family, notes)


def of_gpu(gpu: Gpu) -> Machine:
    """A GPU of the hardware table."""
    peak = {dtype: tflops * 1e12 for dtype, tflops in gpu.peak_tflops.items()}
    return _specified("cuda", gpu.name, peak, gpu.bandwidth_gbs * 1e9, "", [])


def _specified(
    kind: str, name: str, peak: Mapping[str, float], bandwidth: float, family: str, notes: list[str]
) -> Machine:
    rows = {
        (work, dtype): hardware.reached(kind, work, family=family, dtype=dtype)
        for work in ("matmul", "conv")
        for dtype in peak
    }
    peaks = {}
    if kind == "cuda" and "bfloat16" in peak:
        # GPUs with bfloat16 units have TF32 ones of half the rate, and PyTorch lets cuDNN use them
        peaks["conv", "float32"] = peak["bfloat16"] / 2
    stream = hardware.reached(kind, "bandwidth", family=family)
    delays = {what: hardware.delay(kind, what) for what in ("op", "view", "loop", "kernel", "wait")}
    known = {what: Spread.of(row) if row is not None else Spread(0, 0, 0) for what, row in delays.items()}
    compute, shares = {}, {}
    for key, row in rows.items():
        if row is not None:
            rate = peaks.get(key, peak[key[1]])
            compute[key] = Surface([(1.0, 1.0, row.expected * rate)])
            shares[key] = Spread(_MODELS * row.low / row.expected, 1.0, row.high / row.expected)
    reached = (stream.expected if stream is not None else 1.0) * bandwidth
    complete = bool(peak) and stream is not None and None not in delays.values()
    if peak and not complete:
        notes = [*notes, f"Nobody measured what PyTorch reaches on {name}: only the roofline is known."]
    return Machine(
        name=name,
        basis="specification",
        peak=peak,
        bandwidth=bandwidth,
        compute=compute,
        stream=Curve([1.0], [reached]),
        weights=reached,
        compute_share=shares,
        stream_share=Spread(stream.low / stream.expected, 1.0, stream.high / stream.expected)
        if stream is not None
        else Spread(1, 1, 1),
        op=known["op"],
        view=known["view"],
        loop=known["loop"],
        kernel=known["kernel"],
        wait=known["wait"],
        # memory is shared: a copy reads and writes it once, at best
        copy=reached / 2,
        queued=True,
        holds_scores=kind == "mps",
        complete=complete,
        peaks=peaks,
        notes=notes,
    )


def summed(ranges: Sequence[Range]) -> Range:
    """Ranges of parts that follow each other."""
    known = [one for one in ranges if one.expected is not None]
    if len(known) < len(ranges):
        return Range(sum(one.floor for one in ranges))
    return Range(
        sum(one.floor for one in ranges),
        sum(one.expected or 0 for one in ranges),
        sum(one.low or 0 for one in ranges),
        sum(one.high or 0 for one in ranges),
    )
