"""The C++ hooks of MPS: what ATen itself asks (is it there, how many, pinned memory).

`at::detail::getMPSHooks()` returns one object for the life of the process; on Linux its functions refuse. While the
virtual device is on, the object uses a patched copy of its vtable. On a build with CUDA the hooks of CUDA deny it
meanwhile: PyTorch insists on one accelerator ("Cannot have both MPS and cuda."), and a Mac has no CUDA.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

from mpsprobe.device.virtual.cpp import native

_BASE = "ATen/detail/AcceleratorHooksInterface.h", "AcceleratorHooksInterface"


@dataclass(frozen=True)
class _Hooks:
    """One hooks object.

    Attributes:
        getter: mangled name of the function that returns it.
        header, struct: where its functions are declared.
        answers: what its functions return while the virtual device is on, by `native.function` name.
    """

    getter: str
    header: str
    struct: str
    answers: dict[str, str]

    def slots(self) -> list[str]:
        """Order of the vtable: the base's functions, then its own new ones."""
        names = [name for name, _ in native.virtual_functions(*_BASE)]
        own = native.virtual_functions(self.header, self.struct)
        return names + [name for name, overrides in own if not overrides and name not in names]

    def object(self) -> int:
        """Address of the object."""
        getter = native.library("libtorch_cpu.so")[self.getter]
        getter.restype = ctypes.c_void_p
        address: int = getter()
        return address


MPS = _Hooks(
    "_ZN2at6detail11getMPSHooksEv",
    "ATen/detail/MPSHooksInterface.h",
    "MPSHooksInterface",
    {
        "one": "hasMPS isBuilt isAvailable hasPrimaryContext deviceCount isOnMacOSorNewer",
        "zero": "init deviceSynchronize emptyCache commitStream getCurrentDevice setCurrentDevice exchangeDevice "
        "maybeExchangeDevice isPinnedPtr",
        # aoti_torch_create_tensor_from_blob asks for the device of a pointer (torch < 2.9, see legacy.py)
        "mps0": "getDeviceFromPtr",
    },
)
CUDA = _Hooks(
    "_ZN2at6detail12getCUDAHooksEv",
    "ATen/detail/CUDAHooksInterface.h",
    "CUDAHooksInterface",
    {"zero": "hasCUDA isBuilt isAvailable deviceCount getNumGPUs"},
)

_vtables: dict[str, native.PatchedVtable] = {}
_originals: list[tuple[int, int]] = []


def _patched(hooks: _Hooks) -> native.PatchedVtable:
    vtable = _vtables.get(hooks.struct)
    if vtable is None:
        replaced = {
            name: native.function(answer) for answer, names in hooks.answers.items() for name in names.split()
        }
        if hooks is MPS:
            get_allocator = native.library("libc10.so")["_ZN3c1015GetCPUAllocatorEv"]
            get_allocator.restype = ctypes.c_void_p
            # host memory that the GPU can read is all memory on a Mac; here it is plain memory
            replaced["getPinnedMemoryAllocator"] = native.returning(get_allocator())
        vtable = _vtables[hooks.struct] = native.PatchedVtable(hooks.object(), hooks.slots(), replaced)
    return vtable


def install() -> None:
    """Make the hooks answer as on a Mac."""
    for hooks in (MPS, CUDA) if torch.version.cuda else (MPS,):
        obj = hooks.object()
        word = ctypes.c_void_p.from_address(obj)
        assert word.value is not None
        _originals.append((obj, word.value))
        word.value = _patched(hooks).address


def remove() -> None:
    """Give the hooks their own functions back."""
    while _originals:
        obj, original = _originals.pop()
        ctypes.c_void_p.from_address(obj).value = original
