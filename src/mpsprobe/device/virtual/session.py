"""Make `mps` a device of this process, and undo it: `emulate` with real values, `predict` without memory."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import torch
import torch as pytorch  # inside `emulate` and `predict`, `torch` is the release

from mpsprobe.device.virtual import library, support
from mpsprobe.device.virtual.cpp import native, port_of_this_build, relabel
from mpsprobe.device.virtual.kernels import Kernels
from mpsprobe.device.virtual.memoryless.assume import Assumption
from mpsprobe.device.virtual.memoryless.engine import MemorylessKernels
from mpsprobe.device.virtual.observer import Finding, FindingGrade, Observer
from mpsprobe.device.virtual.random import CudaGenerator, Generator
from mpsprobe.device.virtual.rules import redirect
from mpsprobe.device.virtual.rules.contract import Contract, OnFail, parse_macos
from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory
from mpsprobe.errors import AlreadyActiveError, VirtualDeviceError
from mpsprobe.knowledge import variables


@dataclass(frozen=True)
class EmulationSettings:
    """The Mac to emulate; the fields are the arguments of `emulate`, with `others` as in `predict`."""

    torch: str | None
    macos: str
    memory_gb: float
    fallback: bool | None
    observer: Observer | None
    on_fail: OnFail
    others: tuple[str, ...] = ()


_active = threading.Lock()


def _binary_units(contract: Contract) -> bool:
    """Return whether the release's error messages write GiB instead of GB."""
    return contract.version >= (2, 7)


class Session:
    """One virtual device while it is active.

    Attributes:
        contract: The active rules.
        memory: The modelled unified memory.
        kernels: The kernels that run the ops.
        memoryless: Whether its large tensors have no memory and no values. A PyTorch with MPS allows only this mode.
    """

    memoryless = False

    def __init__(
        self,
        settings: EmulationSettings,
        make_kernels: Callable[..., Kernels],
        generator: type[Generator] = Generator,
    ) -> None:
        support.require(memoryless=self.memoryless)
        self._port = port_of_this_build()
        installed = ".".join(map(str, native.installed_release()))
        fallback = support.FALLBACK_AT_START if settings.fallback is None else settings.fallback
        self.contract = Contract(
            settings.torch or installed,
            settings.macos,
            fallback=fallback,
            on_fail=settings.on_fail,
            observer=settings.observer,
        )
        self.memory = UnifiedMemory(
            settings.memory_gb,
            macos=settings.macos,
            binary_units=_binary_units(self.contract),
            on_full=self._full,
        )
        self.contract.follow(
            Contract(one, settings.macos, fallback=fallback, on_fail="collect") for one in settings.others
        )
        self._generator = generator("mps")
        self.kernels = make_kernels(self.contract, self.memory, settings.observer, self._generator)
        self._answers = library.Answers(
            self.contract,
            self.memory,
            self._generator,
            settings.observer,
            self._port,
            values=not self.memoryless,
        )
        self._undo = contextlib.ExitStack()

    def _full(self, kind: str, error: RuntimeError) -> None:
        self.contract.ask(_binary_units)  # they stand in the text
        sure = str(error) == self.memory.refusal
        self.contract.fail(kind, "", error, FindingGrade.CERTAIN if sure else FindingGrade.LIKELY)

    @property
    def findings(self) -> list[Finding]:
        """Return the findings so far, in order: failures, fallbacks and code that was passed to torch.compile."""
        return self.contract.findings

    def __enter__(self) -> Session:
        if not _active.acquire(blocking=False):
            raise AlreadyActiveError(
                "A virtual device is already on in this process.", "Leave it first: there is one mps slot."
            )
        with contextlib.ExitStack() as undo:
            undo.callback(_active.release)
            self._install(undo)
            self._undo = undo.pop_all()
        return self

    def _install(self, undo: contextlib.ExitStack) -> None:
        undo.callback(self.memory.close)
        self._port.install()
        undo.callback(self._port.remove)
        above = redirect.install(self.kernels, self.contract.version, parse_macos(self.contract.macos))
        undo.callback(self.kernels.unregister)
        self.kernels.register(self._port, self.contract.registered, above)
        undo.callback(self._answers.remove)
        self._answers.install()
        self._generator.manual_seed(torch.initial_seed())
        self._port.start_autograd_thread()
        if not self.memoryless:  # a prediction is about another machine than this one
            ratios = variables.watermarks(os.environ)
            self.memory.refusal = ratios.refusal
            if not ratios.refusal:
                self.memory.set_high_watermark(ratios.high)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()


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
    what a Mac refuses raises PyTorch's own error. Afterwards the process is as before, except that autograd keeps its
    thread for `mps:0`.

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
        UnsupportedInstallError: The virtual device does not run on this machine or PyTorch; the message gives the
            reason.
        VirtualDeviceError: The storage is unavailable here, or the release has no MPS on that macOS.
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
    """Return what makes the kernels of a session for a storage, and the class of its generators.

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


class MemorylessSession(Session):
    """A session whose large tensors have no memory and no values."""

    memoryless = True

    @property
    def assumptions(self) -> list[Assumption]:
        """Return the assumptions so far in order: each assumed value, where it was assumed, and what depends on it."""
        kernels = self.kernels
        assert isinstance(kernels, MemorylessKernels)
        return kernels.assumptions.list

    def assume_full_masks(self) -> None:
        """Assume from now on that comparisons of unknown values hold for all elements, instead of for none.

        An integer that the target computes as a length is then assumed to be 128 instead of 0.
        """
        assert isinstance(self.kernels, MemorylessKernels)
        self.kernels.full_masks = True


@contextlib.contextmanager
def predict(
    torch: str | None = None,
    macos: str = "15.5",
    memory_gb: float = 64,
    *,
    fallback: bool | None = None,
    observer: Observer | None = None,
    on_fail: OnFail = "collect",
    others: Sequence[str] = (),
) -> Iterator[MemorylessSession]:
    """Make `mps` a device whose large tensors have no memory, so that any model runs at full size.

    Build the model under `torch.device("mps")`, from its config or class. Ints, bools and small tensors keep real
    values; `assumptions` lists the values that had to be assumed.

    Args:
        torch: The release whose op table and rules apply; None for the installed one.
        macos: The macOS version, such as `"15.5"`.
        memory_gb: The unified memory of the Mac in GB as Apple counts them (GiB).
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set; None for its value when mpsprobe was imported.
        observer: An observer that is called with every op, wait of the host, copy and finding.
        on_fail: `"collect"` lists all failures in `findings`; `"raise"` stops at the first one, as a Mac does.
        others: Other releases with MPS on that macOS; `contract.alike` says at the end which of them would have had
            the same session, call by call.

    Yields:
        The session, with `findings`, `assumptions`, `memory` and `contract`.

    Raises:
        UnsupportedInstallError: The virtual device does not run on this machine or PyTorch; the message gives the
            reason.
        VirtualDeviceError: The release, or one of `others`, has no MPS on that macOS.
        AlreadyActiveError: Another virtual device is active.
        UnknownReleaseError: There is no data on that release.
    """
    settings = EmulationSettings(
        torch=torch,
        macos=macos,
        memory_gb=memory_gb,
        fallback=fallback,
        observer=observer,
        on_fail=on_fail,
        others=tuple(others),
    )
    session = MemorylessSession(settings, MemorylessKernels)
    with session:
        yield session
