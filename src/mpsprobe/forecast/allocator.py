"""Simulate PyTorch's allocator on MPS: it takes memory from Metal in heaps, whose unused parts count too.

The rules are those of aten/src/ATen/mps/MPSAllocator.h: buffers up to 1 MiB share heaps of 8 MiB, up to 10 MiB
heaps of 32 MiB, up to 512 MiB heaps of 1 GiB; a larger one has its own heap, rounded up to 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable

MIB = 1 << 20
_SMALL, _MEDIUM, _LARGE = 1 * MIB, 10 * MIB, 512 * MIB
_HEAPS = {_SMALL: 8 * MIB, _MEDIUM: 32 * MIB, _LARGE: 1024 * MIB}
_ROUND = 2 * MIB


def heap_bytes(buffers: Iterable[int]) -> int:
    """Return the bytes that Metal has allocated once buffers of these sizes are placed in the tightest heaps.

    Args:
        buffers: The sizes in bytes, in the order of allocation.
    """
    taken = 0
    free: dict[int, list[int]] = {heap: [] for heap in _HEAPS.values()}
    for size in buffers:
        heap = _heap_of(size)
        if heap is None:
            taken += -(-size // _ROUND) * _ROUND
            continue
        rooms = free[heap]
        fitting = [k for k, room in enumerate(rooms) if room >= size]
        if fitting:
            k = min(fitting, key=lambda k: rooms[k])
        else:
            taken += heap
            rooms.append(heap)
            k = len(rooms) - 1
        rooms[k] -= size
        if not rooms[k]:
            del rooms[k]
    return taken


def _heap_of(size: int) -> int | None:
    """Return the size in bytes of the heap that a buffer shares; None for a buffer with its own heap."""
    if size <= _SMALL:
        return _HEAPS[_SMALL]
    if size < _MEDIUM:
        return _HEAPS[_MEDIUM]
    return _HEAPS[_LARGE] if size < _LARGE else None
