"""The recorder behind the virtual device: its kernel reports ops, host syncs, crossings and findings.

It fits `mpsprobe.device.virtual.observer.Observer`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from mpsprobe.trace.recorder import Recorder
from mpsprobe.trace.source import find_site


@dataclass
class HostEvent:
    """The host waited for the device, or memory crossed between them, at one line of a module.

    Attributes:
        kind: `"item"`, `"copy"`, `"data-dependent"`, `"to-device"`, `"to-host"` ...: the device's own word.
        module: path of the innermost module.
        source: `file:line` of user code.
        count: how often.
        bytes: how much crossed; 0 for a mere wait.
    """

    kind: str
    module: str
    source: str
    count: int = 0
    bytes: int = 0


class RecorderObserver:
    """Feeds a recorder from the virtual device's kernel.

    Attributes:
        recorder: gets the ops; its `paths.following()` must be on for module paths.
        findings: what the device found, in order.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        # one of the two is called for every op: no detour
        self.op, self.again = recorder.op, recorder.again
        self.findings: list[Any] = []
        self._events: dict[tuple[str, str, str], HostEvent] = {}

    def sync(self, kind: str) -> None:
        """Note that the host waited for the device."""
        self._note(kind, 0)

    def crossing(self, nbytes: int, direction: str) -> None:
        """Note that memory crossed between host and device."""
        self._note(direction, nbytes)

    def finding(self, finding: Any) -> None:
        """Note that something fails or falls back."""
        self.findings.append(finding)

    def host_events(self) -> list[HostEvent]:
        """Return waits and crossings in the order in which they first occurred."""
        return list(self._events.values())

    def _note(self, kind: str, nbytes: int) -> None:
        key = (
            kind,
            self.recorder.paths.path(self.recorder.paths.calls.stack[-1]),
            find_site(sys._getframe(1).f_back).text,
        )
        event = self._events.setdefault(key, HostEvent(*key))
        event.count += 1
        event.bytes += nbytes
