"""`emulate`: real values under MPS's rules, on any supported machine."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import torch as pytorch  # `torch` is the release asked about

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

    Inside it `.to("mps")`, autocast, generators, `device_map="mps"`, backward and optimiser steps work, and
    what a Mac refuses is refused in PyTorch's own words. Afterwards everything is as before.

    Args:
        torch: the release whose op table and rules apply, e.g. `"2.8"`; None: the installed one.
        macos: the system, e.g. `"15.5"`.
        memory_gb: unified memory of the Mac, GB as Apple counts them (GiB).
        fallback: whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set; None: as it was when mpsprobe was imported.
        storage: where values live and what computes: `"cpu"`, or `"cuda"` for the first GPU (from torch 2.9 on).
        observer: is told of every op, host sync, device crossing and finding.
        on_fail: `"raise"` as a Mac does, or `"collect"`: note what fails in `findings` and go on as if
            it were fixed.

    Yields:
        The session: `findings`, `memory`, `contract`.

    Raises:
        UnsupportedInstallError: this machine or PyTorch cannot carry it; the text says why.
        AlreadyActiveError: another virtual device is on.
        UnknownReleaseError: there is no data on that release.
    """
    kernels, generator = _on(storage)
    settings = EmulationSettings(
        torch=torch, macos=macos, memory_gb=memory_gb, fallback=fallback, observer=observer, on_fail=on_fail
    )
    session = Session(settings, kernels, generator)
    with session:
        yield session


def _on(storage: str) -> tuple[Callable[..., Kernels], type[Generator]]:
    """Return the kernels and the generator class for a storage.

    Raises:
        VirtualDeviceError: there is no such storage, or not here.
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
    # The virtual device denies CUDA, also to its own first use. `cuda.init()` is not enough: C++ notes for itself
    # that it has asked Python, and only a tensor makes it ask.
    pytorch.empty(0, device="cuda")
    return functools.partial(Kernels, host_device=pytorch.device("cuda", 0)), CudaGenerator
