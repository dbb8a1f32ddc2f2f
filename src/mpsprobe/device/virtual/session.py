"""The active state of the virtual device: everything that is installed, and its removal in reverse order."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import torch

from mpsprobe.device.virtual import library, support
from mpsprobe.device.virtual.cpp import native, port_of_this_build
from mpsprobe.device.virtual.kernels import Kernels
from mpsprobe.device.virtual.observer import Finding, FindingGrade, Observer
from mpsprobe.device.virtual.random import Generator
from mpsprobe.device.virtual.rules import redirect
from mpsprobe.device.virtual.rules.contract import Contract, OnFail, parse_macos
from mpsprobe.device.virtual.rules.unified_memory import UnifiedMemory
from mpsprobe.errors import AlreadyActiveError
from mpsprobe.knowledge import variables


@dataclass(frozen=True)
class EmulationSettings:
    """The Mac to emulate; `emulate` describes each field."""

    torch: str | None
    macos: str
    memory_gb: float
    fallback: bool | None
    observer: Observer | None
    on_fail: OnFail
    others: tuple[str, ...] = ()


_active = threading.Lock()


def _binary_units(contract: Contract) -> bool:
    """Return whether the release writes GiB in its errors."""
    return contract.version >= (2, 7)


class Session:
    """One virtual device while it is active.

    Attributes:
        contract: The active rules.
        memory: The modelled unified memory.
        kernels: The kernels that run the ops.
        memoryless: Whether its tensors have no values, which is the only mode in a Mac's own PyTorch.
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
            self.contract, self.memory, self._generator, settings.observer, self._port
        )
        self._undo = contextlib.ExitStack()

    def _full(self, kind: str, error: RuntimeError) -> None:
        self.contract.ask(_binary_units)  # they stand in the text
        sure = str(error) == self.memory.refusal
        self.contract.fail(kind, "", error, FindingGrade.CERTAIN if sure else FindingGrade.LIKELY)

    @property
    def findings(self) -> list[Finding]:
        """Return what failed or fell back so far, in order."""
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
