"""Loaded at the start of every Python of a test with the stand-in: gives torch a Mac's C++ side once it is imported.

With STAND_IN_MAC set, mpsprobe also sees a Mac: the answers of its commands are recorded, and /proc is missing.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib.abc
import importlib.machinery
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_AFTER: dict[str, Callable[[ModuleType], None]] = {}


class _Loader(importlib.abc.Loader):
    """The real loader of a module, and what is done once it has run."""

    def __init__(self, real: Any, after: Callable[[ModuleType], None]) -> None:
        self._real, self._after = real, after

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._real.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._after(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        after = _AFTER.get(name)
        if after is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _Loader(spec.loader, after)
        return spec


def _load(torch: Any) -> None:
    library = ctypes.CDLL(os.environ["STAND_IN_LIBRARY"])
    torch._stand_in = library  # for tests: its counters
    for name in ("kernels", "fallbacks", "allocations", "events", "synchronized", "calls"):
        getattr(library, f"stand_in_{name}").restype = ctypes.c_int64
    if sys.stderr.isatty():
        warnings.simplefilter("ignore")
    from mpsprobe.knowledge import ops

    release = ".".join(torch.__version__.split(".")[:2])
    #: those of the C++ file, and those that only MPS has: without a kernel their composites decompose
    handwritten = {"empty.memory_format", "empty_strided", "resize_", "linear", "linear_backward"}
    handwritten |= {"max_pool2d", "max_pool2d_backward", "_lstm_mps", "lstm_mps_backward"}
    extra = ["copy_", "_local_scalar_dense", "convolution", "_convolution", "convolution_backward"]
    null = os.open(os.devnull, os.O_WRONLY)
    stderr = os.dup(2)
    os.dup2(null, 2)  # "Overriding a previously registered kernel", once, from C++
    for op in [*sorted(name.removeprefix("aten::") for name in ops.release(release).mps_ops), *extra]:
        if op not in handwritten:
            library.stand_in_register(op.encode(), b"MPS")
    os.dup2(stderr, 2)
    os.close(null)
    os.close(stderr)
    torch._C._has_mps = True
    # what a build with MPS has in Python besides
    torch._C._mps_get_name = lambda: "Apple M2"
    torch._C._mps_get_core_count = lambda: 8


_MAC = json.load(open(os.environ["STAND_IN_MAC"])) if os.environ.get("STAND_IN_MAC") else None  # noqa: PTH123, SIM115


def _as_recorded(system: Any) -> None:
    """Make `LocalSystem` answer as the Mac that was recorded."""
    assert _MAC is not None
    mac = _MAC

    class RecordedSystem(system.LocalSystem):  # type: ignore[misc]
        system, machine, release = mac["system"], mac["machine"], mac["release"]

        def output(self, *command: str, timeout: float = 5.0) -> str:
            return str(mac["outputs"].get(command[0], ""))

        def exists(self, path: str) -> bool:
            return False

        def text(self, path: str) -> str:
            return ""

        def sandboxed(self) -> bool | None:
            return False

        def memory(self) -> int:
            return int(mac["memory"])

    system.LocalSystem = RecordedSystem


def _without_proc() -> None:
    """Fail where mpsprobe opens a file below /proc or /sys: a Mac has none."""
    real = builtins.open

    def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file).startswith(("/proc/", "/sys/")):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("mpsprobe") or caller == "pathlib":
                raise FileNotFoundError(2, "No such file or directory (a Mac has no /proc)", str(file))
        return real(file, *args, **kwargs)

    builtins.open = opened


if os.environ.get("STAND_IN_LIBRARY"):
    _AFTER["torch"] = _load
if _MAC is not None:
    _AFTER["mpsprobe.mac.facts"] = _as_recorded
    _without_proc()
if _AFTER:
    sys.meta_path.insert(0, _Finder())
