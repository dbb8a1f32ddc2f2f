"""The C++ hooks of MPS: what ATen itself asks (is it there, how many, random generators, pinned memory).

`at::detail::getMPSHooks()` returns one object for the life of the process; on Linux its functions refuse.
While the virtual device is on, the object uses a patched copy of its vtable.
"""

from __future__ import annotations

import ctypes
import functools

from mpsprobe.device.virtual import native

_BASE = "ATen/detail/AcceleratorHooksInterface.h"
_ANSWERS = {
    "one": "hasMPS isBuilt isAvailable hasPrimaryContext deviceCount isOnMacOSorNewer",
    "zero": "init deviceSynchronize emptyCache commitStream getCurrentDevice setCurrentDevice exchangeDevice "
    "maybeExchangeDevice isPinnedPtr",
    # aoti_torch_create_tensor_from_blob asks for the device of a pointer (torch < 2.9, see relabel.py)
    "mps0": "getDeviceFromPtr",
}


def slots() -> list[str]:
    """Slot order of `MPSHooksInterface`: the base's functions, then its own new ones."""
    names = [name for name, _ in native.virtual_functions(_BASE, "AcceleratorHooksInterface")]
    own = native.virtual_functions("ATen/detail/MPSHooksInterface.h", "MPSHooksInterface")
    return names + [
        name for name, overrides in own if not overrides and name not in (*names, "~complete", "~deleting")
    ]


def _object() -> int:
    get_hooks = native.library("libtorch_cpu.so")["_ZN2at6detail11getMPSHooksEv"]
    get_hooks.restype = ctypes.c_void_p
    address: int = get_hooks()
    return address


@functools.lru_cache(maxsize=1)
def _vtable() -> native.PatchedVtable:
    replaced = {name: native.function(answer) for answer, names in _ANSWERS.items() for name in names.split()}
    get_allocator = native.library("libc10.so")["_ZN3c1015GetCPUAllocatorEv"]
    get_allocator.restype = ctypes.c_void_p
    # host memory that the GPU can read is all memory on a Mac; here it is plain memory
    replaced["getPinnedMemoryAllocator"] = native.returning(get_allocator())
    return native.PatchedVtable(_object(), slots(), replaced)


_original: list[int] = []


def install() -> None:
    """Make the hooks answer as on a Mac."""
    word = ctypes.c_void_p.from_address(_object())
    if not _original:
        assert word.value is not None
        _original.append(word.value)
    word.value = _vtable().address


def remove() -> None:
    """Give the hooks their own functions back."""
    if _original:
        ctypes.c_void_p.from_address(_object()).value = _original.pop()
