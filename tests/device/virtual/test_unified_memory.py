"""The modelled unified memory, against sizes that public reports show."""

from __future__ import annotations

import re
import sys
import threading

import pytest
import torch

from mpsprobe.device.virtual.rules import unified_memory
from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory, format_size
from mpsprobe.device.virtual.session import emulate, predict

pytestmark = pytest.mark.own_process

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory_gb", "limit"),
    [(8, "9.07 GB"), (16, "18.13 GB"), (24, "27.20 GB"), (64, "81.60 GB")],
)
def test_limits_are_those_of_public_reports(memory_gb: float, limit: str) -> None:
    # "max allowed: 9.07 GB" on 8 GB (surya 254), 18.13 GB on 16 GB (pytorch 105839), 27.20 GiB on 24 GB
    # (ComfyUI 7440), 81.60 GB on an M1 Max with 64 GB (bobo-fun 8)
    memory = UnifiedMemory(memory_gb, macos="13.0")
    assert memory.limit is not None
    assert format_size(memory.limit, binary=False) == limit


@pytest.mark.parametrize(
    ("size", "text"),
    [(256, "256 bytes"), (16384, "16.00 KB"), (720 << 20, "720.00 MB"), (5 * GIB, "5.00 GB")],
)
def test_sizes_as_pytorch_writes_them(size: int, text: str) -> None:
    assert format_size(size, binary=False) == text
    assert format_size(size, binary=True) == text.replace("KB", "KiB").replace("MB", "MiB").replace(
        "GB", "GiB"
    )


def test_out_of_memory_on_a_small_mac() -> None:
    with emulate("2.13", "15.5", memory_gb=8) as session:
        # untouched, so they take no memory here
        first = [torch.empty(7 * GIB // 2, dtype=torch.uint8, device="mps") for _ in range(2)]
        with pytest.raises(RuntimeError) as caught:
            torch.empty(7 * GIB // 2, dtype=torch.uint8, device="mps")
        limit = format_size(session.memory.limit or 0, binary=True)
        assert str(caught.value) == (
            f"MPS backend out of memory (MPS allocated: 7.00 GiB, other allocations: 0 bytes, max allowed: {limit}). "
            "Tried to allocate 3.50 GiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper "
            "limit for memory allocations (may cause system failure)."
        )
        del first
        torch.empty(7 * GIB // 2, dtype=torch.uint8, device="mps")  # what was freed can be used again


# alloc_buffer_block of MPSAllocator.mm; the limit of an 8 GB Mac: llama.cpp pull request 1706
@pytest.mark.parametrize("size", [4 * GIB, 5 * GIB])
def test_one_buffer_is_limited_before_the_watermark(size: int) -> None:
    with emulate("2.13", memory_gb=8):
        torch.empty(4 * GIB - 256, dtype=torch.uint8, device="mps")
        with pytest.raises(RuntimeError, match=f"^Invalid buffer size: {size // GIB}.00 GiB$"):
            torch.empty(size, dtype=torch.uint8, device="mps")
    with predict("2.6", memory_gb=8) as session:
        torch.empty(size, dtype=torch.uint8, device="mps")
    assert [one.message for one in session.findings] == [f"Invalid buffer size: {size // GIB}.00 GB"]


@pytest.mark.parametrize(
    ("release", "text"), [("2.7", "Invalid buffer size: 19.38 GiB"), ("2.13", "")]
)  # kijai/ComfyUI-SUPIR issue 151: an M2 Max with 32 GB; kernels without scores came with 2.13
def test_scores_of_attention_are_one_buffer(release: str, text: str) -> None:
    with predict(release, memory_gb=32) as session:
        q = torch.empty(2, 10, 16128, 64, device="mps")
        with torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert [one.message for one in session.findings] == ([text] if text else [])


def test_emulated_attention_counts_its_scores() -> None:
    with emulate("2.7") as session:
        q = torch.zeros(1, 4, 256, 8, device="mps")
        session.memory.restart_peak()
        before = session.memory.peak
        with torch.no_grad():
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        assert session.memory.peak - before >= 4 * 256 * 256 * 4


def test_answers() -> None:
    with emulate(memory_gb=16) as session:
        assert torch.mps.current_allocated_memory() == 0
        x = torch.empty(1000, device="mps")
        y = x[10:]  # shares memory
        assert torch.mps.current_allocated_memory() == 4096
        del x
        assert torch.mps.current_allocated_memory() == 4096
        del y
        assert torch.mps.current_allocated_memory() == 0
        assert torch.mps.driver_allocated_memory() == 4096
        torch.mps.empty_cache()
        assert torch.mps.driver_allocated_memory() == 0
        assert torch.mps.recommended_max_memory() == session.memory.recommended


@pytest.mark.skipif(
    not hasattr(torch, "accelerator") or not hasattr(torch.accelerator, "memory_allocated"),
    reason="torch.accelerator has no memory functions before 2.9",
)
def test_the_accelerators_memory_by_release() -> None:
    """PyTorch's pull request 186748, in the headers of 2.13: the allocator of MPS answers torch.accelerator."""
    with emulate("2.13", memory_gb=16) as session:
        torch.accelerator.empty_cache()
        x = torch.empty(1024, device="mps")
        assert torch.accelerator.memory_allocated() == torch.accelerator.max_memory_allocated() == x.nbytes
        assert torch.accelerator.memory_reserved() >= x.nbytes
        torch.accelerator.reset_peak_memory_stats()
        assert torch.accelerator.get_memory_info()[1] == session.memory.recommended
    with emulate("2.12"), pytest.raises(RuntimeError, match="is not a DeviceAllocator"):
        torch.accelerator.memory_allocated()


@pytest.mark.parametrize(
    ("ratio", "share"),
    [("0.0", None), ("1.5", 1.5), ("2", 2.0), ("much", None), ("", None), ("0,7", None), ("1,9", 1.0)],
)
def test_the_variable_sets_the_limit(
    ratio: str, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPSHeapAllocatorImpl::init_allocator reads it with strtod: a text without a number is 0, no limit."""
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", ratio)
    monkeypatch.setenv("PYTORCH_MPS_LOW_WATERMARK_RATIO", "1.0")
    with emulate("2.8", memory_gb=16) as session:
        torch.zeros(4, device="mps")
        limit, recommended = session.memory.limit, session.memory.recommended
    assert limit == (None if share is None else int(share * recommended))


@pytest.mark.parametrize(
    ("high", "low", "text"),
    [
        ("3", None, "invalid high watermark ratio 3"),
        ("-0.5", None, "invalid high watermark ratio -0.5"),
        ("nan", None, "invalid high watermark ratio nan"),
        ("70%", None, "invalid high watermark ratio 70"),
        ("0.8", None, "invalid low watermark ratio 1.4"),  # public reports; the default of LOW is above HIGH
        ("0", "2.5", "invalid low watermark ratio 2.5"),
        (None, "-1", "invalid low watermark ratio -1"),
    ],
)
def test_illegal_ratios_refuse_every_use(
    high: str | None, low: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """setHighWatermarkRatio and setLowWatermarkRatio of MPSAllocator.mm, called when the allocator starts."""
    for name, value in {"HIGH": high, "LOW": low}.items():
        if value is not None:
            monkeypatch.setenv(f"PYTORCH_MPS_{name}_WATERMARK_RATIO", value)
    with emulate("2.8") as session:
        for use in (
            lambda: torch.zeros(4, device="mps"),
            lambda: torch.ones(4).to("mps"),
            torch.mps.current_allocated_memory,
            torch.mps.empty_cache,
        ):
            with pytest.raises(RuntimeError, match=f"^{re.escape(text)}$"):
                use()
    assert {(one.kind, one.grade.value) for one in session.findings} == {("memory", "certain")}
    with emulate("2.8", on_fail="collect") as session:
        assert torch.ones(4, device="mps").sum().item() == 4
    assert [one.message for one in session.findings] == [text]


def test_temporaries_do_not_raise_the_peak() -> None:
    with emulate() as session:
        keep = torch.zeros(100 << 18, device="mps")  # 100 MiB
        for _ in range(300):
            kept = torch.empty(1 << 18, device="mps")  # 1 MiB, while the one before is still held
        assert kept.nbytes + keep.nbytes <= session.memory.peak <= 1.03 * (keep.nbytes + 2 * kept.nbytes)


def test_peak_is_near_the_truth() -> None:
    with emulate() as session:
        block = 1 << 20
        keep = [torch.empty(block, dtype=torch.uint8, device="mps") for _ in range(20)]
        for _ in range(100):
            torch.empty(10 * block, dtype=torch.uint8, device="mps")
        assert 30 * block <= session.memory.peak <= 30 * block * 1.03
        assert session.memory.allocated() == len(keep) * block


def test_fraction() -> None:
    with emulate(memory_gb=8) as session:
        torch.mps.set_per_process_memory_fraction(0.5)
        assert session.memory.limit == session.memory.recommended // 2
        torch.mps.set_per_process_memory_fraction(0.0)
        keep = [torch.empty(3 * GIB, dtype=torch.uint8, device="mps") for _ in range(5)]
        assert session.memory.allocated() == 3 * GIB * len(keep)
        with pytest.raises(RuntimeError, match=r"invalid high watermark ratio 2\.5"):
            session.memory.set_high_watermark(2.5)


def test_collecting_reports_it_once() -> None:
    with emulate(memory_gb=8, on_fail="collect") as session:
        keep = [torch.empty(3 * GIB, dtype=torch.uint8, device="mps") for _ in range(6)]
        assert [one.kind for one in session.findings] == ["memory"]
        assert session.memory.allocated() == 3 * GIB * len(keep)


def test_each_weak_reference_is_freed_once_under_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second release of one corrupts the heap: the thread that samples memory, and the model's, sweep at once."""
    freed: list[int] = []
    # what is kept keeps its address, so that no two references are alike
    monkeypatch.setattr(unified_memory, "free_reference", freed.append)
    memory = UnifiedMemory(64)
    done = threading.Event()

    def sample() -> None:
        while not done.is_set():
            memory.allocated()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    samplers = [threading.Thread(target=sample) for _ in range(2)]
    try:
        for one in samplers:
            one.start()
        for _ in range(3000):
            memory.track(torch.empty(64, device="cpu"))
    finally:
        done.set()
        for one in samplers:
            one.join()
        sys.setswitchinterval(interval)
    assert memory.allocated() == 0
    assert len(freed) == len(set(freed)) == 3000
