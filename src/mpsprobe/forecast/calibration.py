"""What `mpsprobe calibrate` wrote down of a device, and that device as a forecast sees it. Free of torch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mpsprobe.errors import DataError
from mpsprobe.forecast.machine import Curve, HostTimes, Machine, Surface, of_gpu
from mpsprobe.knowledge import hardware, ops, speed

#: Of the file. Another schema gets another number, and files of the old one are refused with a line.
VERSION = 2


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
        version: of this schema.
        device: `"cpu"`, `"cuda"` or `"mps"`.
        name: of the processor or GPU.
        torch, python: versions that ran it.
        threads: of a CPU's kernels.
        points: what was timed.
        weights_bandwidth: bytes/s of a matrix-vector product that reads each weight once, from memory.
        host_seconds: of the host, by kind of call: the keys of `knowledge.speed.HostCost.us`, and `graph` on MPS.
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
    host_seconds: dict[str, float]
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
    """Return a calibration.

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
    """Return the devices that were calibrated: that of `file`, or those in their usual places.

    Raises:
        DataError: a file is not a calibration.
    """
    files = [file] if file is not None else [default_file(device) for device in ("mps", "cuda", "cpu")]
    return [machine(read(one)) for one in files if file is not None or one.is_file()]


def machine(calibration: Calibration) -> Machine:
    """Return a calibrated device, whose floor is its published peak or, without one, the best that was measured."""
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
        kind=calibration.device,
        basis="calibrated",
        peak=peak,
        peaks=peaks,
        bandwidth=bandwidth,
        compute=compute,
        stream=stream,
        streams=streams,
        weights={"": math.inf},
        attention=math.inf,
        host=_host(calibration),
        kernel=calibration.kernel_seconds,
        graph_kernel=calibration.kernel_seconds,
        release=ops.resolve_release(calibration.torch) if calibration.device == "mps" else "",
        copy=calibration.copy_bandwidth,
        queued=calibration.device != "cpu",
        holds_scores=calibration.device == "mps",
    )


def _host(calibration: Calibration) -> HostTimes:
    """Return the host's times; what C++ pays for an op was not timed, and is scaled as the others are."""
    row = speed.host_cost("mps" if calibration.device == "mps" else "cuda")
    assert row is not None
    times = dict(calibration.host_seconds)
    scale = times.get("stream", 0.0) / (row.us["stream"] * 1e-6)
    named = {name: times.pop(name, 0.0) for name in ("module", "turn", "graph")}
    times.pop("wait", None)
    return HostTimes(
        times,
        graph=named["graph"],
        module=named["module"],
        turn=named["turn"],
        wait=calibration.wait_seconds,
        inner=scale * row.inner * 1e-6,
        inner_graph=scale * row.inner_graph * 1e-6,
    )


def _bandwidths(points: Sequence[Point]) -> Curve:
    return _best([(point.bytes, point.bytes / point.seconds) for point in points])


def _best(pairs: Sequence[tuple[int, float]]) -> Curve:
    rates: dict[int, float] = {}
    for size, rate in pairs:
        rates[size] = max(rate, rates.get(size, 0.0))
    sizes = sorted(rates)
    return Curve([float(size) for size in sizes], [rates[size] for size in sizes])
