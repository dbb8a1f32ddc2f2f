"""PyTorch's allocator on MPS: memory comes from Metal in heaps, and what is left of a heap is taken all the same.

The rules are those of aten/src/ATen/mps/MPSAllocator.h: buffers up to 1 MiB share heaps of 8 MiB, up to 10 MiB heaps
of 32 MiB, up to 512 MiB heaps of 1 GiB; a larger one has a heap of its own, rounded up to 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable

MIB = 1 << 20
_SMALL, _MEDIUM, _LARGE = 1 * MIB, 10 * MIB, 512 * MIB
_HEAPS = {_SMALL: 8 * MIB, _MEDIUM: 32 * MIB, _LARGE: 1024 * MIB}
_ROUND = 2 * MIB


def heap_bytes(buffers: Iterable[int]) -> int:
    """Return what Metal has handed out once buffers of these sizes lie in heaps, each where it fits most tightly.

    Args:
        buffers: bytes, in the order in which they were asked for.
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
    """Return the heap that a buffer shares; None for one of its own."""
    if size <= _SMALL:
        return _HEAPS[_SMALL]
    if size < _MEDIUM:
        return _HEAPS[_MEDIUM]
    return _HEAPS[_LARGE] if size < _LARGE else None
