"""The device guard: what makes `torch.device("mps")` a device that tensors can be on.

`c10::impl::device_guard_impl_registry` has one slot per device type. On a build without MPS slot 13 is null,
and `.to("mps")` fails with "PyTorch is not linked with support for mps devices". A real Mac's slot is never
touched.
"""

from __future__ import annotations

import ctypes
import functools

from mpsprobe.device.virtual.cpp import native
from mpsprobe.device.virtual.errors import UnsupportedInstallError

#: Functions of a guard that tell which device is current: with the CPU's own answers, `.to("mps")` would come
#: back as a CPU tensor. The stream functions answer the default stream of mps:0.
_ANSWERS = {
    "mps0": "type exchangeDevice getDevice getStream getDefaultStream getNewStream getStreamFromGlobalPool "
    "exchangeStream",
    "zero": "setDevice uncheckedSetDevice record block destroyEvent synchronizeEvent synchronizeStream "
    "synchronizeDevice",
    "one": "deviceCount queryEvent queryStream",
}
_FIRST_SLOTS = ["type", "exchangeDevice", "getDevice", "setDevice", "uncheckedSetDevice", "getStream"]


def _registry() -> ctypes.Array[ctypes.c_void_p]:
    array = ctypes.c_void_p * native.DEVICE_TYPES
    return array.in_dll(native.library("libc10.so"), "_ZN3c104impl26device_guard_impl_registryE")


def is_native() -> bool:
    """Whether this build has a guard for MPS of its own, that is, whether it was built for a Mac."""
    return bool(_registry()[native.DEVICE_TYPE_MPS]) and not _installed


_installed: list[object] = []


@functools.lru_cache(maxsize=1)
def _guard() -> tuple[int, list[object]]:
    """Address of the virtual guard and what must stay alive for it."""
    slots = [
        name
        for name, _ in native.virtual_functions(
            "c10/core/impl/DeviceGuardImplInterface.h", "DeviceGuardImplInterface"
        )
    ]
    cpu = _registry()[native.DEVICE_TYPE_CPU]
    if slots[: len(_FIRST_SLOTS)] != _FIRST_SLOTS or not cpu:
        raise UnsupportedInstallError("c10's device guard has another form than the virtual device knows.")
    replaced = {name: native.function(answer) for answer, names in _ANSWERS.items() for name in names.split()}
    vtable = native.PatchedVtable(cpu, slots, replaced)
    guard = (ctypes.c_void_p * 4)()
    guard[0] = vtable.address
    return ctypes.addressof(guard), [vtable, guard]


def install() -> None:
    """Put the virtual guard into the slot of MPS.

    Raises:
        UnsupportedInstallError: the slot is taken (a build for Macs), or the guard's form is unknown.
    """
    registry = _registry()
    if registry[native.DEVICE_TYPE_MPS]:
        raise UnsupportedInstallError(
            "This PyTorch has an MPS backend of its own; the virtual device stays away."
        )
    address, keep = _guard()
    registry[native.DEVICE_TYPE_MPS] = address
    _installed[:] = keep


def remove() -> None:
    """Empty the slot again."""
    _registry()[native.DEVICE_TYPE_MPS] = None
    _installed.clear()
