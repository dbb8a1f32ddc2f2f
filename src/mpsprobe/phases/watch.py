"""The flight recorder around the target's own code: after a crash or a kill its file names the op in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder


@contextmanager
def watched(flight: Path | None, model: nn.Module | None = None) -> Iterator[None]:
    """Write every op that is about to run to `flight` while the context lasts.

    The file stays when the process dies, and when it is interrupted from without (a limit, Ctrl-C); it goes when
    the block ends by itself, so that a later death is not laid on an op that has long returned.

    Args:
        flight: None does nothing.
        model: names the modules.
    """
    if flight is None:
        yield
        return
    with FlightRecorder(flight) as recorder, record(model, flight=recorder):
        try:
            yield
        except Exception:
            flight.unlink(missing_ok=True)
            raise
    flight.unlink(missing_ok=True)
