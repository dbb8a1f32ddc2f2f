"""The file of `mpsprobe calibrate`, and the measured device as a forecast uses it. Nothing imports torch."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mpsprobe.errors import DataError, SurroundingsError
from mpsprobe.forecast.machine import Curve, HostTimes, Machine, Surface, of_gpu
from mpsprobe.knowledge import ops, speed
from mpsprobe.places import caches

#: The version of the file's schema. A new schema gets a new number, and older files are refused with one line.
VERSION = 3
#: Files of version 2 lack group norms and say nothing of a host that drifts.
_READABLE = (2, VERSION)
#: The factor by which a GPU's kernels take longer within a model than one after the other in a loop of their own, where
#: they find shapes that suit them: the median of fitted models bound by the device, in each of six calibrations of an
#: H200 (`benchmarks/measured/h200_calibrated.jsonl`).
_WITHIN = 1.11


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of work with the time that one call of it takes on a device.

    Attributes:
        kind: The kind of work as in `kinds.kind_of`.
        dtype: The dtype of its arithmetic.
        flops: The FLOPs of one call, by the formulas that forecasts use.
        bytes: The bytes that one call moves, by the same formulas.
        seconds: The time of one call on the device in seconds, without its dispatch.
        label: A description for readers.
    """

    kind: str
    dtype: str
    flops: int
    bytes: int
    seconds: float
    label: str


class Calibration(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What `mpsprobe calibrate` measured of a device.

    Attributes:
        version: The version of the schema.
        device: `"cpu"`, `"cuda"` or `"mps"`.
        name: The name of the processor or GPU.
        torch: The torch version that was used.
        python: The Python version that was used.
        threads: The number of threads of a CPU's kernels.
        points: The timed pieces of work.
        weights_bandwidth: The bytes per second of a matrix-vector product that reads each weight once from
            memory.
        host_seconds: The time of a call on the host in seconds, by kind: the keys of `knowledge.speed.HostCost.us`,
            and `graph` on MPS.
        kernel_seconds: The shortest time of a kernel on the device in seconds.
        wait_seconds: The time on the host for reading one number from the device in seconds.
        copy_bandwidth: The bytes per second of copies between host and device; for a CPU those within memory.
        took_seconds: The time of the whole calibration in seconds.
        unsteady: The ratio of the times of the same work in the slowest and in the fastest round.
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
    unsteady: float = 1.0


def default_file(device: str) -> Path:
    """Return the default path of a device's calibration on this machine, in the user's cache folder."""
    return caches() / "mpsprobe" / f"calibration-{device}.json"


def read(file: Path) -> Calibration:
    """Read the calibration of a device from a file.

    Raises:
        DataError: The file cannot be read, is not a calibration, or has a version of the schema that is not
            supported.
    """
    try:
        calibration = msgspec.json.decode(file.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise DataError(f"{file}: {problem}.", "Make it anew: mpsprobe calibrate -o FILE.") from problem
    if calibration.version not in _READABLE:
        raise DataError(f"{file} is of version {calibration.version}.", "Make it anew: mpsprobe calibrate.")
    return calibration


def beside(calibration: Calibration, before: Calibration | None) -> Calibration:
    """Return a calibration that counts as unsteady by how much slower its host was than in the one before it.

    A shared machine can be slow for minutes, from the first round of a calibration to the last, which these do not
    show. Only an earlier calibration of the same device and releases is compared.
    """
    if before is None or any(
        getattr(before, name) != getattr(calibration, name) for name in ("device", "name", "torch", "python")
    ):
        return calibration
    earlier = before.host_seconds
    ratios = [
        cost / earlier[kind] for kind, cost in calibration.host_seconds.items() if earlier.get(kind) and cost
    ]
    slower = statistics.median(ratios) if ratios else 1.0
    return msgspec.structs.replace(calibration, unsteady=max(calibration.unsteady, slower))


def machines(file: Path | None) -> list[Machine]:
    """Return the calibrated devices: that of `file`, or for None those whose default files are readable.

    Raises:
        DataError: A file is not a calibration.
    """
    if file is not None:
        return [machine(read(file))]
    # a folder of another user, whose HOME this process was given, holds none of ours
    return [machine(read(one)) for one in usual_files() if os.access(one, os.R_OK)]


def usual_files() -> list[Path]:
    """Return the default paths of this machine's calibrations; empty where the user has no home folder."""
    try:
        return [default_file(device) for device in ("mps", "cuda", "cpu")]
    except SurroundingsError:
        return []


def machine(calibration: Calibration) -> Machine:
    """Return a calibrated device as forecasts use it.

    Its peaks, which give the shortest possible time, are published ones where the hardware table has the GPU, else
    the best measurements.
    """
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
            compute[kind, "float16"] = compute[kind, "bfloat16"]  # `calibrate` measures only one of them
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
    row = speed.find_gpu(calibration.name) if calibration.device == "cuda" else None
    peak, bandwidth = best, max(*stream.rates, calibration.weights_bandwidth)
    if calibration.device == "cuda":  # after the peaks, which nothing slows down
        compute = {
            key: Surface([(size, intensity, rate / _WITHIN) for size, intensity, rate in surface.points])
            for key, surface in compute.items()
        }
        streams = {
            kind: Curve(curve.sizes, [rate / _WITHIN for rate in curve.rates])
            for kind, curve in streams.items()
        }
        stream = streams["stream"]
    if row is not None:
        published = of_gpu(row)
        peak, peaks, bandwidth = {**peak, **published.peak}, published.peaks, published.bandwidth
        compute |= {key: found for key, found in published.compute.items() if key[0] == "conv-groups"}
    from mpsprobe.forecast.clock import (
        STILL,
        remark,
    )  # imports torch, which an answer that was kept does without

    release = ops.resolve_release(calibration.torch) if calibration.device == "mps" else ""
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
        release=release,
        norms=speed.norm_kernel(release) if release else None,
        copy=calibration.copy_bandwidth,
        queued=calibration.device != "cpu",
        lists=calibration.device == "cuda",
        holds_scores=calibration.device == "mps",
        slack=max(1.0, calibration.unsteady / STILL),
        notes=[line] if (line := remark(calibration.unsteady)) else [],
    )


def _host(calibration: Calibration) -> HostTimes:
    """Return the costs on the host; those of ops called from C++ are not timed but scaled from the data file."""
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
        autograd=scale * row.autograd * 1e-6,
    )


def _bandwidths(points: Sequence[Point]) -> Curve:
    return _best([(point.bytes, point.bytes / point.seconds) for point in points])


def _best(pairs: Sequence[tuple[int, float]]) -> Curve:
    rates: dict[int, float] = {}
    for size, rate in pairs:
        rates[size] = max(rate, rates.get(size, 0.0))
    sizes = sorted(rates)
    return Curve([float(size) for size in sizes], [rates[size] for size in sizes])
