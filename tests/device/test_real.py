"""Real devices: the CPU here, and what is asked of torch for the others."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from mpsprobe.device import real
from mpsprobe.device.real import Cpu, MemoryReading, Mps, real_device, watch_memory
from mpsprobe.device.self_test import Product, multiply
from mpsprobe.errors import UsageError
from mpsprobe.run import Evidence

# A heap that earlier tests freed would hold the blocks whose memory is counted here.
pytestmark = pytest.mark.own_process

MIB = 2**20


class Skewed(TorchFunctionMode):
    """Adds an error to every product that is not the float64 reference."""

    def __init__(self, relative: float) -> None:
        super().__init__()
        self.relative = relative

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.__name__ in ("matmul", "__matmul__") and result.dtype != torch.float64:
            result[0, 0] += self.relative * result.abs().max()
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_cpu_multiplies_rightly(dtype: torch.dtype) -> None:
    product = multiply(torch.device("cpu"), dtype)
    assert product.right
    assert 0 < product.error < product.tolerance


@pytest.mark.parametrize(
    ("dtype", "relative", "right"),
    [
        (torch.float32, 1e-4, False),
        (torch.float16, 1e-4, True),
        (torch.float16, 0.05, False),
        (torch.bfloat16, 0.05, True),
        (torch.bfloat16, 0.5, False),
        (torch.float32, math.nan, False),
    ],
)
def test_a_wrong_product_is_seen(dtype: torch.dtype, relative: float, right: bool) -> None:
    with Skewed(relative):
        assert multiply(torch.device("cpu"), dtype).right is right


def test_nan_is_not_within_tolerance() -> None:
    assert not Product(error=math.nan, tolerance=1.0).right


def test_a_device_that_cannot_compute_raises() -> None:
    with pytest.raises(NotImplementedError):
        multiply(torch.device("meta"), torch.float32)


def test_the_cpu_counts_what_this_process_holds() -> None:
    cpu = Cpu()
    before = cpu.memory().allocated
    block = torch.ones(100 * MIB, dtype=torch.uint8)
    held = cpu.memory().allocated
    assert before is not None
    assert held is not None
    assert held - before > 90 * MIB
    assert block.numel() == 100 * MIB


def test_a_peak_between_the_ends_is_kept() -> None:
    with watch_memory(Cpu()) as watch:
        # Larger than anything this process held before, so that the kernel's own counter speaks.
        block = torch.ones(600 * MIB, dtype=torch.uint8)
        del block
    assert watch.before.allocated is not None
    assert watch.after.allocated is not None
    assert watch.peak.allocated is not None
    assert watch.peak.allocated - watch.before.allocated > 550 * MIB
    assert watch.peak.allocated > watch.after.allocated
    assert watch.evidence is Evidence.MEASURED
    assert watch.method


class Scripted(Cpu):
    """Has no counter of its own; its memory rises once, between the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.high = False
        self.sampled = threading.Event()

    def memory(self) -> MemoryReading:
        if self.high:
            self.sampled.set()
        return MemoryReading(allocated=1000 if self.high else 10, driver=2000 if self.high else None)

    def peak(self) -> MemoryReading | None:
        return None


def test_sampling_sees_a_peak_and_says_that_it_is_a_bound() -> None:
    device = Scripted()
    with watch_memory(device, interval=0.001) as watch:
        device.high = True
        assert device.sampled.wait(30)
        device.high = False
    assert watch.before == MemoryReading(allocated=10)
    assert watch.after == MemoryReading(allocated=10)
    assert watch.peak == MemoryReading(allocated=1000, driver=2000)
    assert "lower bound" in watch.method


def test_an_error_passes_with_memory_measured() -> None:
    device = Cpu()
    seen = []

    def broken() -> None:
        with watch_memory(device) as watch:
            seen.append(watch)
            raise KeyError("body")

    with pytest.raises(KeyError):
        broken()
    assert seen[0].after.allocated


def test_a_broken_device_does_not_hide_the_error_of_the_body() -> None:
    class Broken(Cpu):
        calls = 0

        def synchronize(self) -> None:
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("command buffer exited with error status")

    with pytest.raises(KeyError), watch_memory(Broken()):
        raise KeyError("body")


def test_sampling_leaves_no_thread() -> None:
    with watch_memory(Cpu()):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "mpsprobe-memory"]


def test_ru_maxrss_is_in_bytes() -> None:
    now = Cpu().memory().allocated
    assert now is not None
    # The largest resident set cannot be below the present one, nor a thousand times it.
    assert now * 0.9 < real._max_rss() < now * 1000


def test_mps_of_an_old_torch_has_no_limit_and_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2.4 has neither recommended_max_memory (2.5) nor get_name (2.9).
    monkeypatch.delattr(torch.mps, "recommended_max_memory", raising=False)
    monkeypatch.delattr(torch.backends.mps, "get_name", raising=False)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 5)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 7)
    device = Mps()
    assert device.memory() == MemoryReading(allocated=5, driver=7, limit=None)
    assert device.gpu is None
    assert device.peak() is None


def test_mps_of_a_new_torch_tells_limit_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11453246464, raising=False)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M4", raising=False)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 0)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)
    device = Mps()
    assert device.memory().limit == 11453246464
    assert device.gpu == "Apple M4"


def test_devices_by_name() -> None:
    assert real_device("cpu").name == "cpu"
    with pytest.raises(UsageError, match="tpu"):
        real_device("tpu")


def test_a_macs_ru_maxrss_is_taken_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    # getrusage(2) of macOS: "the maximum resident set size utilized (in bytes)"; of Linux: "(in kilobytes)"
    on_linux = real._max_rss()
    monkeypatch.setattr("sys.platform", "darwin")
    assert 900 * real._max_rss() < on_linux < 1100 * real._max_rss()
