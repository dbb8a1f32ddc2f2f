"""The answers that PyTorch and the libraries above it give about MPS while the virtual device is active.

The C++ hooks (`cpp/`) answer most questions by themselves, including those of `torch.accelerator`. The rest are
questions whose answer varies (memory, macOS), objects that Linux cannot make (generators, events), and caches of
earlier answers.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.cpp.port import Port
from mpsprobe.device.virtual.observer import FindingGrade, Observer
from mpsprobe.device.virtual.random import Generator
from mpsprobe.device.virtual.rules.contract import Contract, parse_macos
from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory
from mpsprobe.errors import OutOfReachError

_MISSING = object()
_MPS = torch.device("mps", 0)

#: Functions of torch._C that need Metal itself.
_METAL = ("_mps_compileShader", "_mps_loadMetalllib", "_mps_loadMetallibFromPath", "_mps_startCapture")
#: The first release whose allocator answers torch.accelerator (IMPSAllocator inherits c10::DeviceAllocator, PR 186748).
_ACCELERATOR_MEMORY = (2, 13)


class Patches:
    """Replaced attributes, restored in reverse order."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute, whether or not it exists, and remember the old value."""
        self._undo.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute if it exists in this PyTorch, and remember the old value."""
        if hasattr(owner, name):
            self.set(owner, name, value)

    def undo(self) -> None:
        """Restore all attributes, the last one first."""
        while self._undo:
            owner, name, old = self._undo.pop()
            if old is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, old)


class Answers:
    """Replace the Python functions that query the device by ones that answer as on a Mac.

    Args:
        contract: The rules of the release and macOS.
        memory: The modelled memory, from which questions about memory are answered.
        generator: The device's default random generator.
        observer: The observer that is told when the host waits for the device, or None.
        port: The port, which has further answers that depend on the build.
        values: Whether all tensors have values in memory; False for predictions.
    """

    def __init__(
        self,
        contract: Contract,
        memory: UnifiedMemory,
        generator: Generator,
        observer: Observer | None,
        port: Port,
        *,
        values: bool = True,
    ) -> None:
        self._contract = contract
        self._values = values
        self._memory = memory
        self._generator = generator
        self._observer = observer
        self._port = port
        self._patches = Patches()
        self._events: dict[int, float] = {}
        self._eager = False

    def install(self) -> None:
        """Replace the functions, so that they answer as on a Mac."""
        patches, memory = self._patches, self._memory
        patches.set(torch._C, "_has_mps", True)
        for name, answer in {
            "_mps_is_on_macos_or_newer": self._is_on_macos,
            "_mps_deviceSynchronize": self._synchronize,
            "_mps_emptyCache": self._allocators(memory.empty_cache),
            "_mps_setMemoryFraction": self._allocators(memory.set_high_watermark),
            "_mps_currentAllocatedMemory": self._allocators(memory.allocated),
            "_mps_driverAllocatedMemory": self._allocators(memory.driver_allocated),
            "_mps_recommendedMaxMemory": self._allocators(lambda: memory.recommended),
            "_mps_maxBufferLength": lambda: memory.longest,
            "_mps_get_default_generator": lambda: self._generator,
            "_mps_get_name": lambda: "Apple (emulated)",
            "_mps_get_core_count": lambda: 0,
            "_mps_acquireEvent": self._new_event,
            "_mps_releaseEvent": _nothing,
            "_mps_recordEvent": self._record_event,
            "_mps_waitForEvent": _nothing,
            "_mps_synchronizeEvent": self._synchronize,
            "_mps_queryEvent": lambda _event: True,
            "_mps_elapsedTimeOfEvents": self._elapsed,
            "_mps_profilerStartTrace": _nothing,
            "_mps_profilerStopTrace": _nothing,
            "_accelerator_synchronizeDevice": self._synchronize,
            "_accelerator_emptyCache": self._allocators(memory.empty_cache),
        }.items():
            patches.replace(torch._C, name, answer)
        for name in ("_mps_isCaptureEnabled", "_mps_isCapturing"):  # without MTL_CAPTURE_ENABLED
            patches.set(torch._C, name, lambda: False)
        for name in _METAL:  # a build without MPS has no such names, and says that MPS is not available
            patches.set(torch._C, name, _no_metal)
        patches.set(torch._C, "_mps_stopCapture", _nothing)
        patches.set(torch._C, "_mps_host_alias_storage", _host_alias if self._values else _no_metal)
        if self._contract.version >= _ACCELERATOR_MEMORY:
            self._accelerator_memory()
        backend = torch.backends.mps
        patches.set(backend, "is_available", _like(backend.is_available, True))
        patches.set(backend, "is_built", _like(backend.is_built, True))
        patches.replace(backend, "is_macos_or_newer", self._is_on_macos)
        patches.replace(backend, "is_macos13_or_newer", lambda minor=0: self._is_on_macos(13, minor))
        patches.set(torch.mps, "_default_mps_generator", self._generator)
        patches.set(torch, "Generator", type(self._generator))
        patches.set(torch.UntypedStorage, "mps", _storage_to_mps)
        patches.set(torch.UntypedStorage, "__new__", _storage_on(torch.UntypedStorage.__new__))
        for name in ("_share_filename_cpu_", "_share_fd_cpu_"):
            patches.set(torch.UntypedStorage, name, self._share(getattr(torch.UntypedStorage, name)))
        contracts = (self._contract, *self._contract.alike)
        if any(map(_shares_by_name, contracts)):
            in_class = torch.storage._StorageBase
            patches.set(in_class, "share_memory_", self._share(in_class.share_memory_, _shares_by_name))
        patches.set(torch, "compile", self._compile(torch.compile))
        patches.set(torch.nn.Module, "compile", self._compile(torch.nn.Module.compile))
        patches.set(torch.cuda, "is_available", lambda: False)
        patches.set(torch.cuda, "_lazy_init", _no_cuda)
        self._port.patch(patches)
        if "torch._dynamo.eval_frame" in sys.modules:  # something may have been compiled before
            self._run_eagerly()
        self._autocast()
        forget_answers()

    def remove(self) -> None:
        """Restore every replaced function."""
        self._patches.undo()
        self._eager = False
        forget_answers()

    def _accelerator_memory(self) -> None:
        """Answer `torch.accelerator.memory_allocated()` and the like (MPSHeapAllocatorImpl::getDeviceStats)."""
        memory = self._memory

        def stats(_device: int) -> dict[str, Any]:
            in_use, driver = memory.allocated(), memory.driver_allocated()
            used = {"all": {"current": in_use, "peak": memory.peak}}
            reserved = {"all": {"current": driver, "peak": driver}}
            return {"allocated_bytes": used, "reserved_bytes": reserved}

        def info(_device: int) -> tuple[int, int]:
            return max(0, memory.recommended - memory.driver_allocated()), memory.recommended

        for name, answer in {
            "_accelerator_isAllocatorInitialized": lambda: True,
            "_accelerator_getDeviceStats": self._allocators(stats),
            "_accelerator_resetAccumulatedStats": _nothing,
            "_accelerator_resetPeakStats": lambda _device: memory.restart_peak(),
            "_accelerator_getMemoryInfo": self._allocators(info),
        }.items():
            self._patches.replace(torch._C, name, answer)

    def _allocators(self, answer: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function about memory so that it starts the allocator first, as such a call does on a Mac."""

        def ask(*args: Any) -> Any:
            self._memory.start()
            return answer(*args)

        return ask

    def _is_on_macos(self, major: int = 13, minor: int = 0) -> bool:
        return (major, minor) <= parse_macos(self._contract.macos)

    def _synchronize(self, *_ignored: Any) -> None:
        if self._observer is not None:
            self._observer.sync("synchronize")

    def _new_event(self, *_ignored: Any) -> int:
        self._events[event := len(self._events) + 1] = time.perf_counter()
        return event

    def _record_event(self, event: int) -> None:
        self._events[event] = time.perf_counter()

    def _elapsed(self, start: int, end: int) -> float:
        """Return the milliseconds between two events on the host's clock, which say nothing about a Mac."""
        return 1e3 * (self._events[end] - self._events[start])

    def _share(
        self, original: Callable[..., Any], when: Callable[[Contract], bool] = lambda _: True
    ) -> Callable[..., Any]:
        """Wrap a function so that it refuses to share device memory between processes, with a Mac's message."""

        @functools.wraps(original)
        def share(storage: Any, *args: Any, **kwargs: Any) -> Any:
            if storage.device.type == "mps":
                self._contract.ask(when)
            if storage.device.type == "mps" and when(self._contract):
                # StorageSharing.cpp; issues 87688 and transformers 38819
                error = RuntimeError("_share_filename_: only available on CPU")
                self._contract.fail("device", "", error, FindingGrade.CERTAIN)
                return storage
            return original(storage, *args, **kwargs)

        return share

    def _compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `torch.compile` so that functions run eagerly and are reported: Inductor's kernels need Metal."""

        @functools.wraps(original)
        def compile(*args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("disable"):
                self._contract.note_compiled()
                self._run_eagerly()
            return original(*args, **kwargs)

        return compile

    def _run_eagerly(self) -> None:
        if self._eager:
            return
        self._eager = True
        from torch._dynamo import eval_frame  # takes seconds, so only when something is compiled

        # torch.compiler.set_stance would work, but other code may set another stance in the meantime
        self._patches.replace(eval_frame, "_callback_from_stance", _nothing)
        # with fullgraph=True, 2.13 counts what was compiled and raises when it was nothing
        self._patches.replace(eval_frame, "set_fullgraph_compiled_frame_count", lambda _count: 0)

    def _autocast(self) -> None:
        """Let `torch.autocast` refuse or disable itself for `mps` as in the chosen release on its macOS.

        The facts are from strings in the wheels and from PRs 99272 and 139390.
        """
        contract = self._contract
        if all(_autocasts_bfloat16(one) for one in (contract, *contract.alike)):
            return
        original = torch.autocast.__init__

        @functools.wraps(original)
        def init(
            self: torch.autocast,
            device_type: str,
            dtype: torch.dtype | None = None,
            enabled: bool = True,
            cache_enabled: bool | None = None,
        ) -> None:
            if device_type == "mps":
                contract.ask(lambda one: _autocast_answer(one, dtype, enabled))
            answer = _autocast_answer(contract, dtype, enabled) if device_type == "mps" else ""
            if answer is None:
                error = RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
                contract.fail("autocast", "", error, FindingGrade.CERTAIN)
            elif answer:
                warnings.warn(answer, UserWarning, stacklevel=2)
                enabled = False
            original(self, device_type, dtype, enabled, cache_enabled)

        self._patches.set(torch.autocast, "__init__", init)


def _shares_by_name(contract: Contract) -> bool:
    """Return whether `share_memory_` raises for device memory: torch/storage.py of 2.13 and later does nothing."""
    return contract.version < (2, 13)


def _autocasts_bfloat16(contract: Contract) -> bool:
    return contract.version >= (2, 6) and parse_macos(contract.macos) >= (14, 0)


def _autocast_answer(contract: Contract, dtype: torch.dtype | None, enabled: bool) -> str | None:
    """Return the warning with which autocast to a dtype is disabled, `""` for none; None where MPS has no autocast."""
    if contract.version < (2, 5):
        return None
    if not enabled or dtype is not torch.bfloat16 or _autocasts_bfloat16(contract):
        return ""
    later = contract.version >= (2, 6)
    return (
        "In MPS autocast, but the target dtype is not supported. Disabling autocast.\nMPS Autocast only supports "
        f"{'dtypes of torch.bfloat16, torch.float16' if later else 'dtype of torch.float16'} currently."
    )


def _nothing(*_ignored: Any) -> None:
    pass


def _like(original: Callable[..., Any], value: Any) -> Callable[..., Any]:
    """Return a function that returns `value`. Dynamo (2.15) reads `__wrapped__`, others call `cache_clear`."""

    @functools.wraps(original)
    def answer(*_args: Any, **_kwargs: Any) -> Any:
        return value

    answer.cache_clear = _nothing  # type: ignore[attr-defined]
    return answer


def _storage_to_mps(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Implement `UntypedStorage.mps()`, because torch.load and safetensors move storages, not tensors."""
    if storage.device.type == "mps":
        return storage
    source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return source.to(_MPS).untyped_storage()


def _host_alias(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Return a host storage over the same memory as a storage of the device."""
    return relabel.host(torch.empty(0, dtype=torch.uint8, device=_MPS).set_(storage)).untyped_storage()


def _storage_on(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let `UntypedStorage(n, device="mps")` make memory of the device, for which a build without MPS has no case."""

    @functools.wraps(original)
    def new(cls: type, *args: Any, device: Any = None, **kwargs: Any) -> Any:
        if device is None or torch.device(device).type != "mps":
            return original(cls, *args, **({} if device is None else {"device": device}), **kwargs)
        given = args[0] if args else kwargs.get("size", kwargs.get("sequence", 0))
        if isinstance(given, int):
            return torch.empty(given, dtype=torch.uint8, device=_MPS).untyped_storage()
        return torch.tensor(list(given), dtype=torch.uint8, device=_MPS).untyped_storage()

    return new


def _no_metal(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Stand in for functions of Metal.

    Raises:
        OutOfReachError: Always.
    """
    raise OutOfReachError(
        "The virtual device compiles and captures no Metal.",
        "Whether the shader compiles and what it computes is unknown here; run it on the Mac itself.",
    )


def _no_cuda() -> None:
    raise AssertionError("Torch not compiled with CUDA enabled")


#: Functions of libraries with cached answers (lru_cache), by module.
_CACHES = {
    "transformers.utils.import_utils": (
        "is_torch_mps_available",
        "is_torch_cuda_available",
        "is_torch_bf16_available",
    ),
    "accelerate.utils.imports": ("is_mps_available", "is_cuda_available", "is_bf16_available"),
    "torch.backends.mps": ("is_available", "is_built"),
}


def forget_answers() -> None:
    """Clear the caches in which loaded libraries keep facts about the machine."""
    for module, names in _CACHES.items():
        for name in names:
            clear = getattr(getattr(sys.modules.get(module), name, None), "cache_clear", None)
            if clear is not None:
                clear()
