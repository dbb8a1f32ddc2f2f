"""The port for a PyTorch built without MPS: it adds a device guard, hooks and a thread of autograd.

*Guard.* `c10::impl::device_guard_impl_registry` has one slot for each device type. On a build without MPS slot 13
is null, and `.to("mps")` fails with "PyTorch is not linked with support for mps devices". A copy of the CPU's guard
fills it, with the functions that return the current device replaced.

*Hooks.* `at::detail::getMPSHooks()` returns one object for the life of the process, which ATen asks about MPS
(whether it is available, how many devices, pinned memory); on Linux its functions refuse. While the virtual device
is active, the object uses a patched copy of its vtable. On a build with CUDA the hooks of CUDA deny it in the
meantime, because PyTorch insists on one accelerator ("Cannot have both MPS and cuda."), and a Mac has no CUDA.

*Autograd's thread.* `torch::autograd::Engine` starts one thread for each device at the first backward pass of the
process and never again. If that was before the virtual device, gradients on `mps:0` find no queue (an assertion in
engine.cpp, "device.index() < device_ready_queues_.size()"). The thread stays when the virtual device ends: it
sleeps, as a Mac's does.
"""

from __future__ import annotations

import ctypes
import functools
import time
from dataclasses import dataclass
from typing import Any

import torch

from mpsprobe.device.virtual.cpp import native
from mpsprobe.device.virtual.cpp.port import Patcher, Port
from mpsprobe.errors import UnsupportedInstallError

# ---------------------------------------------------------------------------------------------------------- guard

#: Functions of a guard that return the current device. With the CPU's own answers, `.to("mps")` would return a CPU
#: tensor. The stream functions return the default stream of mps:0.
_GUARD_ANSWERS = {
    "mps0": "type exchangeDevice getDevice getStream getDefaultStream getNewStream getStreamFromGlobalPool "
    "exchangeStream",
    "zero": "setDevice uncheckedSetDevice block destroyEvent synchronizeEvent synchronizeStream "
    "synchronizeDevice",
    "one": "deviceCount queryEvent queryStream",
}
#: `record` and `elapsedTime` of a guard; events hold the host's time (c10/core/impl/DeviceGuardImplInterface.h).
_Record = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_int8, ctypes.c_int8
)
_Elapsed = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int8)
_recorded: dict[int, float] = {}


def _record(_guard: Any, event: Any, _stream: Any, _device: int, _flag: int) -> None:
    number = event[0] or len(_recorded) + 1
    event[0] = number
    _recorded[number] = time.perf_counter()


def _elapsed(_guard: Any, start: int, end: int, _device: int) -> float:
    return 1e3 * (_recorded.get(end, 0.0) - _recorded.get(start, 0.0))


_FIRST_SLOTS = ["type", "exchangeDevice", "getDevice", "setDevice", "uncheckedSetDevice", "getStream"]


def _registry() -> ctypes.Array[ctypes.c_void_p]:
    array = ctypes.c_void_p * native.DEVICE_TYPES
    return array.in_dll(native.library("libc10.so"), "_ZN3c104impl26device_guard_impl_registryE")


@functools.lru_cache(maxsize=1)
def _guard() -> tuple[int, list[object]]:
    """Return the address of the virtual guard, and the objects that must stay alive for it."""
    slots = [
        name
        for name, _ in native.virtual_functions(
            "c10/core/impl/DeviceGuardImplInterface.h", "DeviceGuardImplInterface"
        )
    ]
    cpu = _registry()[native.DEVICE_TYPE_CPU]
    if slots[: len(_FIRST_SLOTS)] != _FIRST_SLOTS or not cpu:
        raise UnsupportedInstallError(
            "c10's device guard has a layout that the virtual device does not know."
        )
    replaced = {
        name: native.function(answer) for answer, names in _GUARD_ANSWERS.items() for name in names.split()
    }
    callbacks = {"record": _Record(_record), "elapsedTime": _Elapsed(_elapsed)}
    for name, callback in callbacks.items():
        address = ctypes.cast(callback, ctypes.c_void_p).value
        assert address is not None
        replaced[name] = address
    vtable = native.PatchedVtable(cpu, slots, replaced)
    guard = (ctypes.c_void_p * 4)()
    guard[0] = vtable.address
    return ctypes.addressof(guard), [vtable, guard, callbacks]


# ---------------------------------------------------------------------------------------------------------- hooks

_BASE = "ATen/detail/AcceleratorHooksInterface.h", "AcceleratorHooksInterface"


@dataclass(frozen=True, eq=False)
class _Hooks:
    """One C++ hooks object whose functions are patched.

    Attributes:
        getter: The mangled name of the function that returns it.
        header: The header that declares its functions.
        struct: The struct that declares its functions.
        answers: The names of the functions to replace while the virtual device is active, separated by spaces, by
            the name of the `native.function` that replaces them.
    """

    getter: str
    header: str
    struct: str
    answers: dict[str, str]

    def slots(self) -> list[str]:
        """Return the names of the vtable's functions in order: the base's, then the struct's own new ones."""
        names = [name for name, _ in native.virtual_functions(*_BASE)]
        own = native.virtual_functions(self.header, self.struct)
        return names + [name for name, overrides in own if not overrides and name not in names]

    def object(self) -> int:
        """Return the address of the C++ object."""
        getter = native.library("libtorch_cpu.so")[self.getter]
        getter.restype = ctypes.c_void_p
        address: int = getter()
        return address


MPS_HOOKS = _Hooks(
    "_ZN2at6detail11getMPSHooksEv",
    "ATen/detail/MPSHooksInterface.h",
    "MPSHooksInterface",
    {
        "one": "hasMPS isBuilt isAvailable hasPrimaryContext deviceCount isOnMacOSorNewer",
        "zero": "init deviceSynchronize emptyCache commitStream getCurrentDevice setCurrentDevice exchangeDevice "
        "maybeExchangeDevice isPinnedPtr",
        # aoti_torch_create_tensor_from_blob asks for the device of a pointer (torch < 2.9, see relabel.py)
        "mps0": "getDeviceFromPtr",
    },
)
_CUDA_HOOKS = _Hooks(
    "_ZN2at6detail12getCUDAHooksEv",
    "ATen/detail/CUDAHooksInterface.h",
    "CUDAHooksInterface",
    {"zero": "hasCUDA isBuilt isAvailable deviceCount getNumGPUs"},
)


@functools.cache
def _patched_vtable(hooks: _Hooks) -> native.PatchedVtable:
    replaced = {
        name: native.function(answer) for answer, names in hooks.answers.items() for name in names.split()
    }
    if hooks is MPS_HOOKS:
        get_allocator = native.library("libc10.so")["_ZN3c1015GetCPUAllocatorEv"]
        get_allocator.restype = ctypes.c_void_p
        # the GPU of a Mac can read all host memory, so plain memory is used here
        replaced["getPinnedMemoryAllocator"] = native.returning(get_allocator())
    return native.PatchedVtable(hooks.object(), hooks.slots(), replaced)


# ----------------------------------------------------------------------------------------------------------- port

_ENGINE = "_ZN5torch8autograd6Engine"
_thread_started = False  # there is one engine in a process


class WithoutMps(Port):
    """The port of a build without MPS: Linux."""

    def __init__(self) -> None:
        super().__init__()
        self._guard_parts: list[object] = []
        self._hooks: list[tuple[int, int]] = []

    def install(self) -> None:
        registry = _registry()
        if registry[native.DEVICE_TYPE_MPS]:
            raise UnsupportedInstallError("Another MPS backend came into this process after mpsprobe.")
        address, self._guard_parts = _guard()
        registry[native.DEVICE_TYPE_MPS] = address
        for hooks in (MPS_HOOKS, _CUDA_HOOKS) if torch.version.cuda else (MPS_HOOKS,):
            obj = hooks.object()
            word = ctypes.c_void_p.from_address(obj)
            assert word.value is not None
            self._hooks.append((obj, word.value))
            word.value = _patched_vtable(hooks).address

    def remove(self) -> None:
        while self._hooks:
            obj, original = self._hooks.pop()
            ctypes.c_void_p.from_address(obj).value = original
        _registry()[native.DEVICE_TYPE_MPS] = None
        self._guard_parts = []

    def patch(self, patches: Patcher) -> None:
        """Do nothing, because the patched hooks already answer what PyTorch's Python code asks C++."""

    def take_over_rest(self, fallback: Any) -> None:
        self.libraries("_").fallback(fallback, "MPS")

    def start_autograd_thread(self) -> None:
        global _thread_started
        if _thread_started:
            return
        lib = native.library("libtorch_cpu.so")
        get_engine = lib[f"{_ENGINE}18get_default_engineEv"]
        get_engine.restype = ctypes.c_void_p
        this = ctypes.c_void_p(get_engine())
        # starts the threads unless they exist; which was the case cannot be queried, so a gradient
        # is tried
        lib[f"{_ENGINE}30initialize_device_threads_poolEv"](this)
        try:
            # whatever the caller has switched off
            with torch.inference_mode(False), torch.enable_grad():
                leaf = torch.zeros((), dtype=torch.float32, device="mps", requires_grad=True)
                torch.autograd.backward(leaf.clone())
        except RuntimeError as problem:
            if "device_ready_queues_" not in str(problem):
                raise
            lib[f"{_ENGINE}20start_device_threadsEv"](this)
        _thread_started = True
