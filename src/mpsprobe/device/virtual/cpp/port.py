"""The port: the operations that the virtual device needs from a PyTorch build, with or without an MPS backend.

A session installs the device (guard and hooks), takes over the MPS dispatch key, and restores both. All differences
between builds are hidden behind this class: `without_mps.py` implements it for Linux, `with_mps.py` for a Mac.
`relabel.py` makes tensors over an address and works on both.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from mpsprobe.device.virtual import schema

Kernel = Callable[..., Any]


class Patcher(Protocol):
    """Replace attributes until the session ends (`library.Patches`)."""

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute if this PyTorch has it."""


class Port(ABC):
    """The virtual device's access to one kind of PyTorch build."""

    def __init__(self) -> None:
        self._libraries: dict[str, Any] = {}

    @abstractmethod
    def install(self) -> None:
        """Make `mps:0` a device that tensors can be on.

        Raises:
            UnsupportedInstallError: This build, or what the process already holds, does not allow it.
        """

    @abstractmethod
    def remove(self) -> None:
        """Undo `install`, so that the process has the devices of its PyTorch build again."""

    @abstractmethod
    def take_over_rest(self, fallback: Kernel) -> None:
        """Let `fallback(overload, *args, **kwargs)` run every op for which the session has no MPS kernel."""

    @abstractmethod
    def start_autograd_thread(self) -> None:
        """Give the autograd engine a queue for `mps:0`, after the device and its kernels are installed."""

    @abstractmethod
    def patch(self, patches: Patcher) -> None:
        """Replace functions in PyTorch's Python code that would query a real device."""

    def take_over(self, kernels: Mapping[str, Kernel], above: Mapping[str, Kernel], fallback: Kernel) -> None:
        """Register the session's kernels in front of those at the MPS key, until `give_back`.

        Args:
            kernels: Kernels for the MPS key by ATen op (`"add.Tensor"`).
            above: Kernels of composite ops that a Mac handles above autograd, for AutogradMPS and MPS.
            fallback: The kernel of every other op that has none at the MPS key.
        """
        aten = self.libraries("aten")
        with warnings.catch_warnings():
            # "Overriding a previously registered kernel" is the purpose here
            warnings.simplefilter("ignore", UserWarning)
            for name, kernel in kernels.items():
                implement(aten, name, kernel, "MPS")
            for name, kernel in above.items():
                implement(aten, name, kernel, "AutogradMPS")
                implement(aten, name, kernel, "MPS")
                for key in _TRANSFORMS:
                    implement(aten, name, _of_device(name, kernel), key)
            self.take_over_rest(fallback)

    def give_back(self) -> None:
        """Remove the session's kernels from the dispatcher, so that the earlier ones are active again."""
        while self._libraries:
            self._libraries.popitem()[1]._destroy()

    def libraries(self, namespace: str) -> Any:
        """Return the `torch.library.Library` through which kernels of a namespace, such as `"aten"`, are registered."""
        if namespace not in self._libraries:
            self._libraries[namespace] = torch.library.Library(namespace, "IMPL")
        return self._libraries[namespace]


#: Keys at which torch.func's transforms run a composite op instead of at the tensor's own key.
_TRANSFORMS = ("FuncTorchVmapMode", "FuncTorchBatched", "AutogradOther")


def _of_device(name: str, kernel: Kernel) -> Kernel:
    """Return a kernel for all devices: `kernel` where the first argument is on MPS, else the usual decomposition.

    PyTorch's composite kernel cannot: without MPS in the build it meets "An unexpected device type was provided mps".
    """
    overload = schema.overload_named(name)

    def chosen(first: Any, *args: Any, **kwargs: Any) -> Any:
        if first.is_mps:
            return kernel(first, *args, **kwargs)
        assert overload is not None
        return schema.decomposed(overload, schema.ABOVE_AUTOGRAD, first, *args, **kwargs)

    return chosen


def implement(library: Any, name: str, kernel: Kernel, key: str) -> None:
    """Call `library.impl` without adding to torch.library's list of kernels registered from Python.

    Before 2.13 that list forbids a second kernel for an op and key. torch._refs.linalg, which torch._dynamo
    imports, registers one for linalg_lu_solve.out. With the session's kernel on the list, that import would fail,
    and after that import the session's kernel would be refused (seen with 2.11).
    """
    listed, entry = torch.library._impls, f"{library.ns}/{name}/{key}"
    before = entry in listed
    listed.discard(entry)
    library.impl(name, kernel, key)
    library._op_impls.discard(entry)  # otherwise the end of the library would remove theirs from the list too
    if not before:
        listed.discard(entry)


@functools.lru_cache(maxsize=1)
def has_mps() -> bool:
    """Return whether this PyTorch was built with an MPS backend, which shows in a fallback at the MPS key.

    It is called before the first session of a process, and cached, because the session's own fallback would look
    the same.
    """
    return bool(torch._C._dispatch_has_backend_fallback(torch._C.DispatchKey.MPS))
