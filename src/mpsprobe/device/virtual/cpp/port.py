"""The port: the operations that the virtual device needs of a PyTorch build, with or without an MPS backend.

A session installs the device (guard and hooks), takes over the MPS dispatch key, and gives both back. All differences
between builds are behind this class: `without_mps.py` implements it for Linux, `with_mps.py` for a Mac. `relabel.py`
makes tensors over an address and works on both.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

Kernel = Callable[..., Any]


class Patcher(Protocol):
    """Replaces attributes until the session ends (`library.Patches`)."""

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
            UnsupportedInstallError: this build cannot carry it.
        """

    @abstractmethod
    def remove(self) -> None:
        """Undo `install`."""

    @abstractmethod
    def take_over_rest(self, fallback: Kernel) -> None:
        """Let `fallback(overload, *args, **kwargs)` run every op that has no kernel of ours at the MPS key."""

    @abstractmethod
    def start_autograd_thread(self) -> None:
        """Make sure that the autograd engine has a queue for `mps:0`; the device is installed and has its kernels."""

    @abstractmethod
    def patch(self, patches: Patcher) -> None:
        """Replace what PyTorch's Python side would ask of a device that is really there."""

    def take_over(self, kernels: Mapping[str, Kernel], above: Mapping[str, Kernel], fallback: Kernel) -> None:
        """Put our kernels in front of what is at the MPS key, until `give_back`.

        Args:
            kernels: by ATen op (`"add.Tensor"`), for the MPS key.
            above: composite ops that a Mac handles above autograd, for AutogradMPS and MPS.
            fallback: runs every other op.
        """
        aten = self.libraries("aten")
        with warnings.catch_warnings():
            # "Overriding a previously registered kernel": that is the purpose
            warnings.simplefilter("ignore", UserWarning)
            for name, kernel in kernels.items():
                implement(aten, name, kernel, "MPS")
            for name, kernel in above.items():
                implement(aten, name, kernel, "AutogradMPS")
                implement(aten, name, kernel, "MPS")
            self.take_over_rest(fallback)

    def give_back(self) -> None:
        """Take every kernel of ours out of the dispatcher; those that were there are in force again."""
        while self._libraries:
            self._libraries.popitem()[1]._destroy()

    def libraries(self, namespace: str) -> Any:
        """Return the library that kernels of a namespace are registered through."""
        if namespace not in self._libraries:
            self._libraries[namespace] = torch.library.Library(namespace, "IMPL")
        return self._libraries[namespace]


def implement(library: Any, name: str, kernel: Kernel, key: str) -> None:
    """Call `library.impl` without adding to torch.library's list of kernels registered from Python.

    Before 2.13 that list forbids a second kernel of an op and key. torch._refs.linalg, which torch._dynamo
    imports, brings one for linalg_lu_solve.out: with ours on the list, its import would fail after us, and
    ours would be refused after it (seen with 2.11).
    """
    listed, entry = torch.library._impls, f"{library.ns}/{name}/{key}"
    before = entry in listed
    listed.discard(entry)
    library.impl(name, kernel, key)
    library._op_impls.discard(entry)  # else the end of the library would take theirs off the list too
    if not before:
        listed.discard(entry)


@functools.lru_cache(maxsize=1)
def has_mps() -> bool:
    """Return whether this PyTorch was built with an MPS backend: only then does it have a fallback at the MPS key.

    Called before the first session of a process, and cached: our own fallback would look the same.
    """
    return bool(torch._C._dispatch_has_backend_fallback(torch._C.DispatchKey.MPS))
