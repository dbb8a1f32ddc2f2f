"""The flight recorder around the target's own code: after a crash or a kill its file names the op in flight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpsprobe.trace.dispatch import DispatchHook, eager
from mpsprobe.trace.flight import FlightRecorder
from mpsprobe.trace.overloads import PLANS, make_plan
from mpsprobe.trace.recorder import Recorder


@contextmanager
def watched(flight: Path | None, model: nn.Module | None = None) -> Iterator[None]:
    """Write every op that is about to run to `flight` while the context lasts.

    The file stays when the process dies or is interrupted from outside (a limit, Ctrl-C). It is removed when the
    block ends by itself, so that a later crash is not blamed on an op that has returned.

    Args:
        flight: The path of the file; None to record nothing.
        model: The model that names the modules.
    """
    try:
        black_box = FlightRecorder(flight) if flight is not None else None
    except OSError:  # a full disk must not keep the target from being judged
        black_box = None
    if flight is None or black_box is None:
        yield
        return
    with black_box:
        recorder = Recorder(model, flight=black_box)
        with eager(), recorder.paths.following(lambda: _Hook.unless_there(recorder)), _Hook(recorder):
            try:
                yield
            except Exception:
                flight.unlink(missing_ok=True)
                raise
    flight.unlink(missing_ok=True)


class _Hook(DispatchHook):
    """Record each op as it arrives, without changing how it runs.

    Unlike a recording it keeps composite ops and tensor subclasses whole, because it watches the target's own run,
    and `aten::scaled_dot_product_attention` means more to a reader than the view that came last.
    """

    @classmethod
    def unless_there(cls, recorder: Recorder) -> _Hook | None:
        """Return a hook for a thread that has none, because dispatch modes apply to one thread."""
        modes = map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))
        return None if any(isinstance(mode, cls) for mode in modes) else cls(recorder)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record one op and run it."""
        recorder = self.recorder
        use = recorder.count(self._stack[-1], PLANS.get(id(func)) or make_plan(func), args, kwargs)
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            recorder.failed(use, error)
            raise
        recorder.leave(use, result)
        return result
