"""The virtual device as the device of a run: tensors say `mps:0`, values are real, the rules are a Mac's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._ops import OpOverload

from mpsprobe.device.real import MemoryReading
from mpsprobe.device.virtual import support
from mpsprobe.device.virtual.observer import Finding, Observer, Quiet
from mpsprobe.device.virtual.session import Session, emulate
from mpsprobe.run import Evidence, Mac


class Switch:
    """Forward every call to the observer `to`, which can be replaced; a session keeps one observer to its end."""

    def __init__(self) -> None:
        self.to: Observer = Quiet()

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        self.to.op(func, args, kwargs, result, flags)

    def again(
        self, kind: object, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self.to.again(kind, func, args, kwargs, result)

    def sync(self, kind: str) -> None:
        self.to.sync(kind)

    def crossing(self, nbytes: int, direction: str) -> None:
        self.to.crossing(nbytes, direction)

    def finding(self, finding: Finding) -> None:
        self.to.finding(finding)


#: What is emulated where the target Mac's own is not known.
_MACOS, _MEMORY_GB = "15.5", 64


class Emulated:
    """The virtual device of a Mac, for use inside `opened`.

    Args:
        mac: The Mac whose rules apply. A torch of `""` means the installed release; where macOS or the memory is
            unknown, 15.5 and 64 GB are assumed.
        keep_going: Whether to record what the Mac refuses and continue as if it were fixed, instead of raising as a
            Mac does.

    Raises:
        UnsupportedInstallError: The virtual device does not work on this machine or with its torch; the message
            gives the reason.
    """

    name = "emulated"
    evidence = Evidence.EMULATED
    gpu: str | None = None
    torch_device = torch.device("mps", 0)

    def __init__(self, mac: Mac, *, keep_going: bool = False) -> None:
        support.require()
        self.mac = mac
        self.keep_going = keep_going
        self._switch = Switch()
        self._session: Session | None = None

    @property
    def assumptions(self) -> str:
        """Return what is assumed of the target Mac, such as `macOS 15.5 and 64 GB assumed`; empty for nothing."""
        macos = "" if self.mac.macos else f"macOS {_MACOS}"
        memory = "" if self.mac.memory_gb else f"{_MEMORY_GB} GB"
        return f"{' and '.join(filter(None, (macos, memory)))} assumed" if macos or memory else ""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make `mps` a device of this process while the context lasts, with the rules of `mac`."""
        with emulate(
            torch=self.mac.torch or None,
            macos=self.mac.macos or _MACOS,
            memory_gb=self.mac.memory_gb or _MEMORY_GB,
            fallback=self.mac.fallback,
            observer=self._switch,
            on_fail="collect" if self.keep_going else "raise",
        ) as self._session:
            yield

    @property
    def session(self) -> Session:
        """Return the active session; the device must be open."""
        assert self._session is not None, "not opened"
        return self._session

    @contextmanager
    def refusals(self) -> Iterator[list[Finding]]:
        """Collect what the Mac refuses while the context lasts: findings other than fallbacks and torch.compile.

        Yields:
            A list that is empty until the context ends, and then holds the findings in order.
        """
        findings, found = self.session.findings, list[Finding]()
        before = len(findings)
        try:
            yield found
        finally:
            found += [one for one in findings[before:] if one.kind not in ("fallback", "compile")]

    def compiled(self) -> list[Finding]:
        """Return the session's findings so far about code that was passed to torch.compile and runs eagerly."""
        return [one for one in self.session.findings if one.kind == "compile"]

    @contextmanager
    def observed_by(self, observer: Observer) -> Iterator[None]:
        """Send every op, wait, copy and finding to `observer` while the context lasts.

        What the Mac refuses is recorded instead of raised, and the run continues as if it were fixed, so that one
        pass finds all refusals.
        """
        before, self._switch.to = self._switch.to, observer
        try:
            with self.session.contract.collecting():
                yield
        finally:
            self._switch.to = before

    def synchronize(self) -> None:
        """Do nothing, because nothing is queued."""

    def memory(self) -> MemoryReading:
        modelled = self.session.memory
        return MemoryReading(modelled.allocated(), modelled.driver_allocated(), modelled.recommended)

    def reset_peak(self) -> None:
        self.session.memory.restart_peak()

    def peak(self) -> MemoryReading | None:
        modelled = self.session.memory
        return MemoryReading(modelled.peak, modelled.driver_allocated(), modelled.recommended)
