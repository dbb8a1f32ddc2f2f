"""The real devices of a machine, cpu, cuda and mps, with how to wait for each and measure its memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import psutil
import torch

from mpsprobe.errors import UsageError
from mpsprobe.run import Evidence

#: The seconds between two readings of a device whose allocator does not record its peak.
SAMPLE_INTERVAL = 0.005


@dataclass(frozen=True)
class MemoryReading:
    """Memory of a device at one moment in bytes; None where the device or the torch release does not report it.

    Attributes:
        allocated: The bytes of tensors; on the CPU the resident set size of this process.
        driver: The bytes taken from the system, caches included: `torch.mps.driver_allocated_memory`,
            `torch.cuda.memory_reserved`.
        limit: The bytes that may be used: Metal's recommended maximum, the GPU's memory, or physical memory.
    """

    allocated: int | None = None
    driver: int | None = None
    limit: int | None = None


@dataclass
class MemoryWatch:
    """Memory during the body of `watch_memory`, which sets `after` and `peak` at its end.

    Attributes:
        before: The reading at the beginning.
        evidence: The evidence of the device.
        method: How the peak was measured.
        after: The reading at the end.
        peak: The largest value of each figure from the beginning to the end.
    """

    before: MemoryReading
    evidence: Evidence
    method: str = ""
    after: MemoryReading = field(default_factory=MemoryReading)
    peak: MemoryReading = field(default_factory=MemoryReading)


class Device(Protocol):
    """A device that tensors are on in a run.

    Attributes:
        name: `"mps"`, `"emulated"`, `"cuda"` or `"cpu"`, as in a run's measurements.
        torch_device: The device to pass to torch.
        evidence: The evidence of a result on it.
        gpu: The name of the GPU; None for the CPU, or when torch does not report it.
    """

    @property
    def name(self) -> str: ...

    @property
    def torch_device(self) -> torch.device: ...

    @property
    def evidence(self) -> Evidence: ...

    @property
    def gpu(self) -> str | None: ...

    def synchronize(self) -> None:
        """Wait until all queued work is done."""

    def memory(self) -> MemoryReading:
        """Return the current memory use."""

    def reset_peak(self) -> None:
        """Reset the peak; do nothing where the device does not record one."""

    def peak(self) -> MemoryReading | None:
        """Return the peak since `reset_peak` that the device itself recorded; None where it has recorded none."""


class Cpu:
    """The CPU. Nothing measured on it is evidence for a Mac's GPU."""

    name = "cpu"
    torch_device = torch.device("cpu")
    evidence = Evidence.MEASURED
    gpu: str | None = None

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._limit = int(psutil.virtual_memory().total)
        self._high_water = _max_rss()

    def synchronize(self) -> None:
        """Do nothing, because CPU kernels return when they are done."""

    def memory(self) -> MemoryReading:
        return MemoryReading(allocated=int(self._process.memory_info().rss), limit=self._limit)

    def reset_peak(self) -> None:
        self._high_water = _max_rss()

    def peak(self) -> MemoryReading | None:
        """Return the peak that the operating system records of this process's resident memory.

        That peak cannot be reset, so the result is None when it has not grown since `reset_peak`.
        """
        now = _max_rss()
        return MemoryReading(allocated=now, limit=self._limit) if now > self._high_water else None


class Cuda:
    """The current CUDA device as the device of a run."""

    name = "cuda"
    evidence = Evidence.MEASURED

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda", torch.cuda.current_device())
        self.gpu: str | None = torch.cuda.get_device_name(self.torch_device)
        self._limit = int(torch.cuda.get_device_properties(self.torch_device).total_memory)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)

    def memory(self) -> MemoryReading:
        return MemoryReading(
            allocated=torch.cuda.memory_allocated(self.torch_device),
            driver=torch.cuda.memory_reserved(self.torch_device),
            limit=self._limit,
        )

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def peak(self) -> MemoryReading | None:
        return MemoryReading(
            allocated=torch.cuda.max_memory_allocated(self.torch_device),
            driver=torch.cuda.max_memory_reserved(self.torch_device),
            limit=self._limit,
        )


class Mps:
    """The GPU of this Mac as the device of a run."""

    name = "mps"
    torch_device = torch.device("mps", 0)
    evidence = Evidence.MEASURED

    def __init__(self) -> None:
        # Since 2.9; earlier only macOS itself reports the GPU's name (`mac.facts`).
        get_name = getattr(torch.backends.mps, "get_name", None)
        self.gpu: str | None = get_name() if get_name is not None else None
        # Since 2.5.
        recommended = getattr(torch.mps, "recommended_max_memory", None)
        self._limit: int | None = int(recommended()) if recommended is not None else None

    def synchronize(self) -> None:
        torch.mps.synchronize()

    def memory(self) -> MemoryReading:
        return MemoryReading(
            allocated=torch.mps.current_allocated_memory(),
            driver=torch.mps.driver_allocated_memory(),
            limit=self._limit,
        )

    def reset_peak(self) -> None:
        """Do nothing, because torch.mps records no peak."""

    def peak(self) -> MemoryReading | None:
        return None


#: Real devices by the names that users write.
REAL: dict[str, type[Cpu] | type[Cuda] | type[Mps]] = {"cpu": Cpu, "cuda": Cuda, "mps": Mps}


def real_device(name: str) -> Device:
    """Return the device called `name`, without checking that this machine has it (`device.select` does).

    Raises:
        UsageError: The name is none of `REAL`.
    """
    if name not in REAL:
        raise UsageError(f"No real device is called {name!r}.", f"Real devices: {', '.join(REAL)}.")
    return REAL[name]()


@contextlib.contextmanager
def watch_memory(device: Device, interval: float = SAMPLE_INTERVAL) -> Iterator[MemoryWatch]:
    """Measure memory before, after and at the peak of the body.

    A thread reads the memory every `interval` seconds. Where the device records a peak of its own (cuda, the virtual
    device, and the CPU if the process has grown beyond its earlier peak), that one is included and the method says
    `exact`. Elsewhere (always on mps) a shorter spike can be missed, so the sampled peak is a lower bound.

    Args:
        device: The device whose memory is measured.
        interval: The seconds between two readings.

    Yields:
        A watch, whose `after`, `peak` and `method` are set when the body ends, even by an error.
    """
    device.synchronize()
    device.reset_peak()
    watch = MemoryWatch(before=device.memory(), evidence=device.evidence)
    highest = watch.before
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(interval):
            highest = _highest(highest, device.memory())

    sampler = threading.Thread(target=sample, name="mpsprobe-memory", daemon=True)
    sampler.start()
    try:
        yield watch
    finally:
        done.set()
        sampler.join()
        # An error of the body must not be hidden by an error of a device that it broke.
        with contextlib.suppress(RuntimeError):
            device.synchronize()
        watch.after = device.memory()
        own = device.peak()
        watch.peak = _highest(_highest(highest, watch.after), own or MemoryReading())
        watch.method = (
            "exact: the device's own counter"
            if own
            else f"sampled every {interval * 1000:g} ms (lower bound)"
        )


def _highest(one: MemoryReading, other: MemoryReading) -> MemoryReading:
    return MemoryReading(
        allocated=_max(one.allocated, other.allocated),
        driver=_max(one.driver, other.driver),
        limit=_max(one.limit, other.limit),
    )


def _max(one: int | None, other: int | None) -> int | None:
    values = [value for value in (one, other) if value is not None]
    return max(values) if values else None


def _max_rss() -> int:
    """Return the largest resident set size of this process in bytes. ru_maxrss is in bytes on macOS, else in KiB."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
