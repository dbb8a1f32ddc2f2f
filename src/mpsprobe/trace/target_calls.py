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

    The file stays when the process dies, and when it is interrupted from without (a limit, Ctrl-C); it goes when
    the block ends by itself, so that a later death is not laid on an op that has long returned.

    Args:
        flight: None does nothing.
        model: names the modules.
    """
    try:
        black_box = FlightRecorder(flight) if flight is not None else None
    except OSError:  # a full disk: the target is to be judged all the same
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
    """Notes each op as it arrives, and changes nothing of how it runs.

    Unlike a recording it leaves composite ops and tensor subclasses whole: what is watched here is the target's
    own run, and `aten::scaled_dot_product_attention` tells its reader more than the view that came last.
    """

    @classmethod
    def unless_there(cls, recorder: Recorder) -> _Hook | None:
        """Return a hook for a thread that has none: dispatch modes hold for one thread."""
        modes = map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))
        return None if any(isinstance(mode, cls) for mode in modes) else cls(recorder)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note one op and run it."""
        recorder = self.recorder
        use = recorder.count(self._stack[-1], PLANS.get(id(func)) or make_plan(func), args, kwargs)
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            recorder.failed(use, error)
            raise
        recorder.leave(use, result)
        return result
