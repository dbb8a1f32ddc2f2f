"""The port for a PyTorch built with MPS, as on a Mac: guard and hooks stay, the kernels at its keys are replaced.

The guard and the hooks of such a build already say that `mps:0` exists, so nothing is patched. Metal's kernels and
its allocator must never receive a memoryless tensor. The dispatcher accepts no second fallback for a key ("Tried to
register multiple backend fallbacks for the same dispatch key"), so every op that would reach Metal gets its own
kernel here: those of the chosen release as on Linux, the others by the rule of a build without MPS (decompose where
PyTorch has a composite kernel, else the fallback).
"""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import torch
from torch._ops import OpOverload

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.cpp.port import Kernel, Patcher, Port, implement
from mpsprobe.errors import UnsupportedInstallError

#: Keys of MPS tensors that the virtual device lacks. PyTorch registers nothing at those of quantised and
#: nested tensors, and torch.library has no names for them.
_OTHER_KEYS = ("SparseMPS", "SparseCsrMPS")


class WithMps(Port):
    """The port of a build with MPS."""

    def __init__(self) -> None:
        super().__init__()
        self._ours: set[tuple[str, str]] = set()
        self._fallback: Kernel | None = None

    def install(self) -> None:
        """Refuse a process that holds Metal tensors, whose addresses these kernels would read as plain memory.

        Raises:
            UnsupportedInstallError: Metal tensors are alive.
        """
        held = torch._C._mps_currentAllocatedMemory() if torch._C._mps_is_available() else 0
        if held:
            raise UnsupportedInstallError(
                f"This process holds {held:,} bytes of tensors on the Mac's own MPS device.",
                "Predict in a process of its own, or delete those tensors first.",
            )

    def remove(self) -> None:
        """Do nothing, because nothing was patched."""

    def start_autograd_thread(self) -> None:
        """Do nothing, because the engine starts a thread for every registered guard, and this build has one."""

    def patch(self, patches: Patcher) -> None:
        for name, value in {
            # a sandbox or a virtual machine has no Metal device; the virtual one is available anyway
            "_mps_is_available": lambda: True,
            "_mps_is_in_bad_fork": lambda: False,
            "_accelerator_getAccelerator": lambda: torch.device("mps"),
        }.items():
            patches.replace(torch._C, name, value)
        # loading a library of C++ ops, or defining one in Python, adds ops that would reach Metal
        patches.replace(torch.ops, "load_library", self._followed(torch.ops.load_library))
        patches.replace(torch.library.Library, "define", self._followed(torch.library.Library.define))

    def give_back(self) -> None:
        self._fallback = None
        super().give_back()
        self._ours.clear()

    def take_over_rest(self, fallback: Kernel) -> None:
        self._fallback = fallback
        aten = self.libraries("aten")
        # they request host memory from the device's allocator, whatever tensor they get
        implement(aten, "_pin_memory", _plain_copy, "CPU")
        implement(aten, "is_pinned", _not_pinned, "CPU")
        self._sweep()

    def take_over(self, kernels: Any, above: Any, fallback: Kernel) -> None:
        self._ours = {(f"aten::{name}", "MPS") for name in (*kernels, *above)}
        self._ours |= {(f"aten::{name}", "AutogradMPS") for name in above}
        super().take_over(kernels, above, fallback)

    def _followed(self, original: Kernel) -> Kernel:
        """Wrap a function that may register new ops, so that these ops get kernels of the session afterwards."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._fallback is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    self._sweep()
            return result

        return wrapped

    def _sweep(self) -> None:
        """Give a kernel of the session to every op that lacks one and would otherwise reach Metal or its fallback."""
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        for name in torch._C._dispatch_get_all_op_names():
            for key in _OTHER_KEYS:
                if has(name, key) and (name, key) not in self._ours:
                    self._add(name, _refusal(name, key), key)
            if (name, "MPS") in self._ours:
                continue
            composite = schema.composite_key(name)
            if composite is None:
                self._add(name, self._fallback_of(name), "MPS")
            elif has(name, "MPS"):
                kernel = _decomposition(name, composite)
                self._add(name, kernel, "MPS")
                if composite == schema.ABOVE_AUTOGRAD and (name, "AutogradMPS") not in self._ours:
                    self._add(name, kernel, "AutogradMPS")

    def _add(self, name: str, kernel: Kernel, key: str) -> None:
        namespace, _, op = name.partition("::")
        implement(self.libraries(namespace), op, kernel, key)
        self._ours.add((name, key))

    def _fallback_of(self, name: str) -> Kernel:
        overload: OpOverload | None = None

        def kernel(*args: Any, **kwargs: Any) -> Any:
            nonlocal overload
            overload = overload or _overload(name)
            assert self._fallback is not None
            return self._fallback(overload, *args, **kwargs)

        return kernel


def _overload(name: str) -> OpOverload:
    """Return the overload with a qualified name, such as `"aten::add.Tensor"`."""
    namespace, _, op = name.partition("::")
    base, _, suffix = op.partition(".")
    overload: OpOverload = getattr(getattr(getattr(torch.ops, namespace), base), suffix or "default")
    return overload


def _decomposition(name: str, composite: str) -> Kernel:
    """Return a kernel that runs an op's composite kernel, as a build without this MPS kernel does."""
    overload: OpOverload | None = None

    def kernel(*args: Any, **kwargs: Any) -> Any:
        nonlocal overload
        overload = overload or _overload(name)
        return schema.decomposed(overload, composite, *args, **kwargs)

    return kernel


def _refusal(name: str, key: str) -> Kernel:
    """Return a kernel that raises the NotImplementedError of an op without a kernel at the key."""

    def kernel(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"Could not run '{name}' with arguments from the '{key}' backend: the virtual device has none."
        )

    return kernel


def _plain_copy(tensor: torch.Tensor, _device: Any = None) -> torch.Tensor:
    """Implement `_pin_memory` as a plain copy, without Metal's allocator; a Mac's GPU can read all host memory."""
    return tensor.clone()


def _not_pinned(_tensor: torch.Tensor, _device: Any = None) -> bool:
    return False
