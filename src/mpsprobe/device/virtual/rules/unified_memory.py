"""Model a Mac's unified memory: the bytes in use, and PyTorch's out-of-memory error at its limit.

The rules are those of aten/src/ATen/mps/MPSAllocator.mm. What a model cannot know (other processes, Metal's own
heaps, buffers still in flight) is left out, so the real limit is reached earlier, never later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from mpsprobe.knowledge import chips, variables

#: Metal aligns small buffers to 256 bytes, and PyTorch keeps sizes up to 1 MiB in separate pools.
_ALIGNMENT = 256
_UP = _ALIGNMENT - 1
_MAX_SMALL = 1 << 20
#: Buffers up to this size are in shared memory (kMaxScalarAlloc).
_MAX_SCALAR = 8
#: Expired entries are removed when the list has grown by this many, or when the sum indicates a new peak.
_SWEEP = 4096


def format_size(size: int, *, binary: bool) -> str:
    """Format a size as c10's `format_size` does; `binary` for releases that write `GiB`, not `GB`."""
    i = "i" if binary else ""
    if size <= 1024:
        return f"{size} bytes"
    for unit, shift in (("K", 10), ("M", 20)):
        if size <= 1 << (shift + 10):
            return f"{size / (1 << shift):.2f} {unit}{i}B"
    return f"{size / (1 << 30):.2f} G{i}B"


class UnifiedMemory:
    """Count the storages of device tensors without keeping any of them alive.

    The end of a storage cannot be observed, only queried (weak references), so the running sum is an upper bound.
    It is corrected before an error, before a caller gets it, and when it indicates a new peak.

    A lock lets one thread in at a time: the thread that samples memory sweeps while that of the model allocates, and
    a weak reference that both released would corrupt the heap.

    Args:
        memory_gb: The Mac's memory in GiB.
        macos: The macOS version, on which Metal's limits depend; None for one that is not known.
        high: The high watermark ratio; see `set_high_watermark`.
        binary_units: Whether PyTorch's messages write `GiB` instead of `GB`.
        on_full: A function that is called with a kind of finding and the error instead of raising it.

    Attributes:
        recommended: Metal's recommendedMaxWorkingSetSize in bytes.
        longest: Metal's maxBufferLength in bytes; a buffer must be smaller.
        limit: The bytes that may be allocated; None without a limit.
        peak: The peak of the bytes in use, at most 2 % above the truth; exact from `mark` on.
        refusal: The message that the first use of the allocator raises because its environment variables are
            invalid; empty for valid ones.
    """

    def __init__(
        self,
        memory_gb: float,
        *,
        macos: str | None = None,
        high: float = chips.HIGH_WATERMARK,
        binary_units: bool = True,
        on_full: Callable[[str, RuntimeError], None] | None = None,
    ) -> None:
        self.total = int(memory_gb * (1 << 30))
        self.recommended = chips.working_set(self.total, macos)[0]
        self.longest = chips.max_buffer(self.total, macos)
        self.peak = 0
        self.refusal = ""
        self.binary_units = binary_units
        self._on_full = on_full
        self._lock = threading.RLock()
        self._references: list[tuple[int, int]] = []
        self._young: list[tuple[int, int]] = []  # those since the last sweep
        self._in_use = 0
        self._cached = 0
        self._swept_at = 0
        self._lasting: list[tuple[int, int]] = []
        self._refused: set[int] = set()
        self._tolerance = 1.02
        self._bound = 0  # what the running sum may claim without a sweep: a little above the highest true sum
        self.set_high_watermark(high)

    def set_high_watermark(self, ratio: float) -> None:
        """Set `limit` as PYTORCH_MPS_HIGH_WATERMARK_RATIO does: a ratio of `recommended`, or 0 for no limit.

        Raises:
            RuntimeError: The ratio is outside 0 to 2; the message is PyTorch's.
        """
        if not 0.0 <= ratio <= variables.UPPER_BOUND:
            raise RuntimeError(f"invalid high watermark ratio {ratio:g}")
        self.limit = None if ratio == 0.0 else int(ratio * self.recommended)

    def start(self) -> None:
        """Start the allocator, as the first use of it on a Mac does.

        Raises:
            RuntimeError: The watermark ratios in the environment are invalid, and there is no `on_full`; the message
                is PyTorch's.
        """
        if self.refusal:
            self._full("memory", RuntimeError(self.refusal))
            self.refusal = ""  # a run that goes on has reported it

    def restart_peak(self) -> None:
        """Set the peak to the bytes in use now."""
        with self._lock:
            self.peak = self._bound = self.allocated()

    def track(self, tensor: Tensor, nbytes: int | None = None) -> None:
        """Count a new tensor's storage in the bytes in use, from which a later sweep removes it once it has ended.

        Args:
            tensor: The new tensor.
            nbytes: The bytes of its storage, where the caller knows them.

        Raises:
            RuntimeError: The storage is too large for one buffer ("Invalid buffer size: ..."), or the limit is
                reached ("MPS backend out of memory (MPS allocated: ...").
        """
        if self.refusal:
            self.start()
        storage = tensor.untyped_storage()
        if nbytes is None:
            nbytes = storage.nbytes()
        if not nbytes:
            return
        size = nbytes + _UP & ~_UP
        with self._lock:
            if size >= self.longest or (self.limit is not None and self._in_use + size > self.limit):
                self._check(size)
            self._young.append((storage._weak_ref(), size))  # type: ignore[arg-type]
            self._in_use += size
            if self._in_use > self.peak:
                self._grow()
            elif len(self._young) > _SWEEP:
                self._sweep_young()
                if len(self._references) > self._swept_at + _SWEEP:
                    self._sweep()

    def _grow(self) -> None:
        """Raise the peak to the running sum; beyond `_bound` only after a sweep has shown that the sum is true."""
        if self._in_use > self._bound:
            self._claim_peak()
        else:
            self.peak = self._in_use

    def reserve(self, nbytes: int) -> None:
        """Count memory that an op allocates while it runs and frees at its end: it raises only the peak.

        Raises:
            RuntimeError: The memory cannot be allocated; see `track`.
        """
        with self._lock:
            size = -(-nbytes // _ALIGNMENT) * _ALIGNMENT
            self._check(size)
            if self._in_use + size > self.peak:
                self.peak = max(self.peak, self.allocated() + size)

    def _check(self, size: int) -> None:
        """Refuse a buffer as alloc_buffer_block does (MPSAllocator.mm): its length first, then the watermark."""
        if size >= self.longest:
            text = format_size(size, binary=self.binary_units)
            if size not in self._refused:
                self._full("buffer", RuntimeError(f"Invalid buffer size: {text}"))
                self._refused.add(size)  # a run that goes on has reported it
        elif self.limit is not None and self._in_use + size > self.limit:
            self.allocated()
            if self._in_use + size > self.limit:
                self._full("memory", RuntimeError(self._out_of_memory(size)))
                self.limit = None  # a run that goes on has reported it

    def _full(self, kind: str, error: RuntimeError) -> None:
        if self._on_full is None:
            raise error
        self._on_full(kind, error)

    def allocated(self) -> int:
        """Return the bytes in use, as torch.mps.current_allocated_memory() does."""
        with self._lock:
            self._references += self._lasting
            self._lasting = []
            self._sweep()
            return self._in_use

    def driver_allocated(self) -> int:
        """Return the bytes taken from Metal: in use, or cached by the allocator (modelled as the peak)."""
        with self._lock:
            self._cached = max(self._cached, self.peak)
            return max(self._cached, self.allocated())

    def empty_cache(self) -> None:
        """Give cached memory back to the system, so that the driver's figure falls to the bytes in use."""
        with self._lock:
            self.restart_peak()
            self._cached = self._in_use

    def mark(self) -> tuple[int, int]:
        """Return the bytes in use now, and their peak since the last mark or the beginning.

        `peak` starts again here, and is exact from the first mark on. The storages in use at the first mark
        (usually weights) are assumed to stay, so that only `allocated` checks them.
        """
        with self._lock:
            self._sweep()
            peak, self.peak = max(self.peak, self._in_use), self._in_use
            self._cached = max(self._cached, peak)
            if self._tolerance > 1:
                self._tolerance = 1.0
                self._lasting, self._references = self._references, []
            self._bound = self._in_use
            return self._in_use, peak

    def lasting(self) -> list[int]:
        """Return the bytes of each storage that was in use at the first mark."""
        return [size for _, size in self._lasting]

    def _claim_peak(self) -> None:
        self._sweep_young()  # most tensors die young, and what they leave may be enough to know
        if self._in_use > self._bound:
            self._sweep()  # the sum is exact now
            self._bound = max(self._bound, int(self._in_use * self._tolerance))
        self.peak = max(self.peak, self._in_use)

    def _sweep(self) -> None:
        # taken first: the garbage collector may run in between, and track what it makes
        known, self._references, self._young = self._references + self._young, [], []
        alive = self._alive(known)
        self._references += alive
        self._swept_at = len(self._references)

    def _sweep_young(self) -> None:
        young, self._young = self._young, []
        alive = self._alive(young)
        self._references += alive

    def _alive(self, references: list[tuple[int, int]]) -> list[tuple[int, int]]:
        expired, free = torch.UntypedStorage._expired, free_reference
        ended = [expired(reference) for reference, _ in references]
        if not any(ended):
            return references
        alive = []
        for entry, over in zip(references, ended, strict=True):
            if over:
                free(entry[0])
                self._in_use -= entry[1]
            else:
                alive.append(entry)
        return alive

    def close(self) -> None:
        """Free all weak references."""
        with self._lock:
            for reference, _ in (*self._references, *self._young, *self._lasting):
                free_reference(reference)
            self._references, self._young, self._lasting = [], [], []

    def _out_of_memory(self, size: int) -> str:
        def text(value: int) -> str:
            return format_size(value, binary=self.binary_units)

        assert self.limit is not None
        pool = "shared" if size <= _MAX_SCALAR else "private"
        return (
            f"MPS backend out of memory (MPS allocated: {text(self._in_use)}, other allocations: {text(0)}, "
            f"max allowed: {text(self.limit)}). Tried to allocate {text(size)} on {pool} pool. "
            "Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations "
            "(may cause system failure)."
        )


def weak_reference(storage: torch.UntypedStorage) -> int:
    """Return a weak reference to a storage, which keeps the address of the C++ object but not its memory."""
    reference: int = storage._weak_ref()  # type: ignore[assignment]
    return reference


def free_reference(reference: int) -> None:
    """Free a reference that `weak_reference` made, and with it the address of the storage's object."""
    torch.UntypedStorage._free_weak_ref(reference)
