"""The recorder behind the virtual device, whose kernel reports ops, waits of the host, copies and findings.

It implements `mpsprobe.device.virtual.observer.Observer`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from mpsprobe.trace.recorder import Recorder
from mpsprobe.trace.source import find_site


@dataclass
class HostEvent:
    """A wait of the host for the device, or a copy between them, at one line of a module.

    Attributes:
        kind: The device's name of the event: `"item"`, `"copy"`, `"data-dependent"`, `"to-device"`,
            `"to-host"` and so on.
        module: The path of the innermost module.
        source: The innermost line of user code as `file:line`.
        count: The number of times that it happened.
        bytes: The number of copied bytes; 0 for a wait.
    """

    kind: str
    module: str
    source: str
    count: int = 0
    bytes: int = 0


class RecorderObserver:
    """Pass the reports of the virtual device's kernel to a recorder.

    Attributes:
        recorder: The recorder; its `paths.following()` must be active for module paths.
        findings: The findings of the device, in order.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        # one of the two is called for every op, so they are bound directly
        self.op, self.again = recorder.op, recorder.again
        self.findings: list[Any] = []
        self._events: dict[tuple[str, str, str], HostEvent] = {}

    def sync(self, kind: str) -> None:
        """Record that the host waited for the device."""
        self._note(kind, 0)

    def crossing(self, nbytes: int, direction: str) -> None:
        """Record a copy between host and device."""
        self._note(direction, nbytes)

    def finding(self, finding: Any) -> None:
        """Record that something fails or falls back."""
        self.findings.append(finding)

    def host_events(self) -> list[HostEvent]:
        """Return waits and copies in the order in which they first occurred."""
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
