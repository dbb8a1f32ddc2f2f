"""`emulate`: real values under MPS's rules, on any supported machine."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import torch as pytorch  # `torch` names the release in this module

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.kernels import Kernels
from mpsprobe.device.virtual.observer import Observer
from mpsprobe.device.virtual.random import CudaGenerator, Generator
from mpsprobe.device.virtual.rules.contract import OnFail
from mpsprobe.device.virtual.session import EmulationSettings, Session
from mpsprobe.errors import VirtualDeviceError

Storage = Literal["cpu", "cuda"]


@contextlib.contextmanager
def emulate(
    torch: str | None = None,
    macos: str = "15.5",
    memory_gb: float = 64,
    *,
    fallback: bool | None = None,
    storage: Storage = "cpu",
    observer: Observer | None = None,
    on_fail: OnFail = "raise",
) -> Iterator[Session]:
    """Make `mps` a device of this process, with real values and the rules of a Mac.

    Inside it `.to("mps")`, autocast, generators, `device_map="mps"`, backward passes and optimiser steps work, and
    what a Mac refuses raises PyTorch's own error. Afterwards everything is as before.

    Args:
        torch: The release whose op table and rules apply, such as `"2.8"`; None for the installed one.
        macos: The macOS version, such as `"15.5"`.
        memory_gb: The unified memory of the Mac in GB as Apple counts them (GiB).
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set; None for its value when mpsprobe was imported.
        storage: The device whose memory holds the values and whose kernels compute: `"cpu"`, or `"cuda"` for the
            first GPU (from torch 2.9 on).
        observer: An observer that is called with every op, wait of the host, copy and finding.
        on_fail: `"raise"` as a Mac does, or `"collect"` to record failures in `findings` and continue as if they
            were fixed.

    Yields:
        The session, with `findings`, `memory` and `contract`.

    Raises:
        UnsupportedInstallError: This machine or PyTorch cannot carry it; the message gives the reason.
        AlreadyActiveError: Another virtual device is active.
        UnknownReleaseError: There is no data on that release.
    """
    kernels, generator = _on(storage)
    settings = EmulationSettings(
        torch=torch, macos=macos, memory_gb=memory_gb, fallback=fallback, observer=observer, on_fail=on_fail
    )
    session = Session(settings, kernels, generator)
    with session:
        yield session


def _on(storage: str) -> tuple[Callable[..., Kernels], type[Generator]]:
    """Return the class of kernels and of generators for a storage.

    Raises:
        VirtualDeviceError: There is no such storage, or it is unavailable here.
    """
    if storage == "cpu":
        return Kernels, Generator
    if storage != "cuda":
        raise VirtualDeviceError(
            f"Storage {storage!r} is not supported.", "Values live in CPU or CUDA memory."
        )
    if relabel.LEGACY:
        raise VirtualDeviceError("Values in CUDA memory need torch 2.9 or newer.", 'Use storage="cpu".')
    if not pytorch.cuda.is_available():
        raise VirtualDeviceError("There is no CUDA device for the values.", 'Use storage="cpu".')
    # The virtual device denies CUDA even to its own first use. `cuda.init()` is not enough: C++ records for itself
    # that it has called Python, and only a tensor makes it do so.
    pytorch.empty(0, device="cuda")
    return functools.partial(Kernels, host_device=pytorch.device("cuda", 0)), CudaGenerator
