"""What `mpsprobe calibrate` wrote down of a device, and that device as a forecast sees it. Free of torch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mpsprobe.errors import DataError
from mpsprobe.forecast.machine import Curve, Machine, Spread, Surface, of_gpu
from mpsprobe.knowledge import hardware

#: Of the file. Another form gets another number, and files of the old one are refused with a line.
VERSION = 1
#: How far most runs on a calibrated device were from their forecasts: the tables of docs/forecast.md.
_SPREAD = Spread(0.77, 1.0, 1.3)


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One piece of work that was timed.

    Attributes:
        kind: as in `kinds.kind_of`.
        dtype: of its arithmetic.
        flops, bytes: of one call, by the formulas that forecasts use.
        seconds: of one call on the device, without its dispatch.
        label: what it was.
    """

    kind: str
    dtype: str
    flops: int
    bytes: int
    seconds: float
    label: str


class Calibration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A device, measured.

    Attributes:
        version: of this form.
        device: `"cpu"`, `"cuda"` or `"mps"`.
        name: of the processor or GPU.
        torch, python: versions that ran it.
        threads: of a CPU's kernels.
        points: what was timed.
        weights_bandwidth: bytes/s of a matrix-vector product that reads each weight once, from memory.
        op_seconds: of the host, for an op with a kernel within a model's code.
        op_seconds_by_kind: the same by kind; empty where one figure is enough, as on a CPU, whose `points` have the
            rest of a dispatch in them.
        view_seconds: the same for a view.
        loop_seconds: of the host, for a turn of `generate` beside its ops.
        kernel_seconds: of the device, the least that a kernel takes.
        wait_seconds: of the host, to read one number from the device.
        copy_bandwidth: bytes/s between host and device; of memory itself for a CPU.
        took_seconds: the whole calibration.
    """

    version: int = VERSION
    device: str
    name: str
    torch: str
    python: str
    threads: int
    points: list[Point]
    weights_bandwidth: float
    op_seconds: float
    op_seconds_by_kind: dict[str, float] = {}
    view_seconds: float
    loop_seconds: float
    kernel_seconds: float
    wait_seconds: float
    copy_bandwidth: float
    took_seconds: float


def default_file(device: str) -> Path:
    """Where the calibration of a device of this machine lies: in the user's cache folder."""
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mpsprobe" / f"calibration-{device}.json"


def read(file: Path) -> Calibration:
    """A calibration.

    Raises:
        DataError: it cannot be read, or is not one.
    """
    try:
        calibration = msgspec.json.decode(file.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise DataError(f"{file}: {problem}.", "Make it anew: mpsprobe calibrate -o FILE.") from problem
    if calibration.version != VERSION:
        raise DataError(f"{file} is of version {calibration.version}.", "Make it anew: mpsprobe calibrate.")
    return calibration


def machines(file: Path | None) -> list[Machine]:
    """The devices that were calibrated: that of `file`, or those in their usual places.

    Raises:
        DataError: a file is not a calibration.
    """
    files = [file] if file is not None else [default_file(device) for device in ("mps", "cuda", "cpu")]
    return [machine(read(one)) for one in files if file is not None or one.is_file()]


def machine(calibration: Calibration) -> Machine:
    """A calibrated device. Its floor is its published peak where there is one, else the best that was measured."""
    by_kind: dict[tuple[str, str], list[Point]] = {}
    for point in calibration.points:
        by_kind.setdefault((point.kind, point.dtype), []).append(point)
    compute = {
        key: Surface([(p.flops, p.flops / p.bytes, p.flops / p.seconds) for p in points])
        for key, points in by_kind.items()
        if all(p.flops for p in points)
    }
    for kind, _ in list(compute):
        if (kind, "float16") not in compute and (kind, "bfloat16") in compute:
            compute[kind, "float16"] = compute[kind, "bfloat16"]  # see calibrate
    streams = {
        kind: _bandwidths(points) for (kind, _), points in by_kind.items() if not any(p.flops for p in points)
    }
    stream = streams["stream"]
    best = {
        dtype: max(rate for *_, rate in surface.points)
        for (kind, dtype), surface in compute.items()
        if kind == "matmul"
    }
    peaks: Mapping[tuple[str, str], float] = {
        key: max(rate for *_, rate in surface.points) for key, surface in compute.items() if key[0] == "conv"
    }
    row = hardware.find(calibration.name) if calibration.device == "cuda" else None
    peak, bandwidth = best, max(*stream.rates, calibration.weights_bandwidth)
    if row is not None:
        published = of_gpu(row)
        peak, peaks, bandwidth = {**peak, **published.peak}, published.peaks, published.bandwidth
    return Machine(
        name=calibration.name,
        basis="calibrated",
        peak=peak,
        peaks=peaks,
        bandwidth=bandwidth,
        compute=compute,
        stream=stream,
        streams=streams,
        weights=math.inf,
        compute_share=dict.fromkeys(compute, _SPREAD),
        stream_share=_SPREAD,
        op=_delay(calibration.op_seconds),
        ops={kind: _delay(seconds) for kind, seconds in calibration.op_seconds_by_kind.items()},
        view=_delay(calibration.view_seconds),
        loop=_delay(calibration.loop_seconds),
        kernel=_delay(calibration.kernel_seconds),
        wait=_delay(calibration.wait_seconds),
        copy=calibration.copy_bandwidth,
        queued=calibration.device != "cpu",
        holds_scores=calibration.device == "mps",
    )


def _delay(seconds: float) -> Spread:
    return Spread(seconds * _SPREAD.low, seconds, seconds * _SPREAD.high)


def _bandwidths(points: Sequence[Point]) -> Curve:
    return _best([(point.bytes, point.bytes / point.seconds) for point in points])


def _best(pairs: Sequence[tuple[int, float]]) -> Curve:
    rates: dict[int, float] = {}
    for size, rate in pairs:
        rates[size] = max(rate, rates.get(size, 0.0))
    sizes = sorted(rates)
    return Curve([float(size) for size in sizes], [rates[size] for size in sizes])
