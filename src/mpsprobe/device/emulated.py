"""The virtual device as the device of a run: tensors say `mps:0`, values are real, the rules are a Mac's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from mpsprobe.device.real import Memory
from mpsprobe.device.virtual import support
from mpsprobe.device.virtual.emulate import emulate
from mpsprobe.device.virtual.observer import Finding, OpFlag, Quiet
from mpsprobe.device.virtual.session import Session
from mpsprobe.run import Evidence, Mac


class OpSink(Protocol):
    """Takes op uses; the recorder is one."""

    def op(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, result: Any
    ) -> None: ...


class Relay(Quiet):
    """Counts what a run on the virtual device does, and passes its op uses on while somebody wants them.

    Attributes:
        sink: who wants them now.
        syncs: how often the host waited for the device, by kind.
        crossed: bytes that crossed between host and device, by direction.
        findings: what fails or falls back on the Mac, each once.
    """

    def __init__(self) -> None:
        self.sink: OpSink | None = None
        self.syncs: dict[str, int] = {}
        self.crossed: dict[str, int] = {}
        self.findings: list[Finding] = []

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        if self.sink is not None and not (flags & OpFlag.RAISED and result is None):
            self.sink.op(func, tuple(args), kwargs, result)

    def sync(self, kind: str) -> None:
        self.syncs[kind] = self.syncs.get(kind, 0) + 1

    def crossing(self, nbytes: int, direction: str) -> None:
        self.crossed[direction] = self.crossed.get(direction, 0) + nbytes

    def finding(self, finding: Finding) -> None:
        if finding not in self.findings:
            self.findings.append(finding)


class Emulated:
    """The virtual device of a Mac; usable inside `opened`.

    Args:
        mac: whose rules apply; its torch `""` means the installed release.

    Raises:
        UnsupportedInstallError: this machine or its torch cannot carry it, with the reason.
    """

    name = "emulated"
    evidence = Evidence.EMULATED
    gpu: str | None = None
    torch_device = torch.device("mps", 0)

    def __init__(self, mac: Mac) -> None:
        support.require()
        self.mac = mac
        self.relay = Relay()
        self._session: Session | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make `mps` a device of this process while the context lasts."""
        with emulate(
            torch=self.mac.torch or None,
            macos=self.mac.macos or "15.5",
            memory_gb=self.mac.memory_gb or 64,
            fallback=self.mac.fallback,
            observer=self.relay,
        ) as self._session:
            yield

    @property
    def session(self) -> Session:
        """What is on."""
        assert self._session is not None, "not opened"
        return self._session

    @contextmanager
    def passing_ops_to(self, sink: OpSink) -> Iterator[None]:
        """Give every op use to `sink` while the context lasts.

        What a Mac refuses does not end it: the run goes on as if mended, so that one pass finds everything.
        """
        before, self.relay.sink = self.relay.sink, sink
        try:
            with self.session.contract.collecting():
                yield
        finally:
            self.relay.sink = before

    def synchronize(self) -> None:
        """Nothing is queued."""

    def memory(self) -> Memory:
        modelled = self.session.memory
        return Memory(modelled.allocated(), modelled.driver_allocated(), modelled.recommended)

    def reset_peak(self) -> None:
        self.session.memory.peak = self.session.memory.allocated()

    def peak(self) -> Memory | None:
        modelled = self.session.memory
        return Memory(modelled.peak, modelled.driver_allocated(), modelled.recommended)
