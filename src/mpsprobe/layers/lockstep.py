"""Run a reference in parallel with the compared pass, a few calls ahead, so that activations do not pile up."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Any

from mpsprobe.layers.capture import Expected
from mpsprobe.layers.leaves import arguments, leaves
from mpsprobe.layers.module_calls import ModuleCall, Watch
from mpsprobe.layers.subject import Extent, Subject

#: The greatest number of calls whose tensors wait: those ahead of the subject, and those that the subject skipped.
_AHEAD = 4
_WAITING = 64
_POLL_S = 0.1


class _Stopped(BaseException):
    """Ends the reference's thread; a BaseException, so that no handler of the target's takes it for an error."""


class Lockstep:
    """A teacher that runs the reference in a thread while the context lasts.

    Both sides run the same code on the same outputs, so their calls come in the same order. Where the subject skips
    or adds calls, the rest is matched again as long as no more than 64 calls differ.

    Args:
        reference: The subject whose outputs are the reference.
        stage: The stage that it runs.
    """

    def __init__(self, reference: Subject, stage: Extent) -> None:
        self._reference = reference
        self._stage = stage
        self._queue: queue.Queue[tuple[ModuleCall, dict[str, Expected]] | None] = queue.Queue(_AHEAD)
        self._waiting: dict[tuple[str, int, bool], dict[str, Expected]] = {}
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="mpsprobe-reference", daemon=True)

    def __enter__(self) -> Lockstep:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def expected(self, call: ModuleCall) -> dict[str, Expected] | None:
        """Return the tensors of a call; see `capture.Teacher`.

        Raises:
            Exception: The reference's own run raised.
        """
        wanted = (call.path, call.nth, call.entering)
        if wanted in self._waiting:
            return self._waiting.pop(wanted)
        while len(self._waiting) < _WAITING and not self._ended:
            item = self._queue.get()
            if item is None:
                self._ended = True
                if self._error is not None:
                    raise self._error
                break
            told, outputs = item
            if (told.path, told.nth, told.entering) == wanted:
                return outputs
            self._waiting[told.path, told.nth, told.entering] = outputs
        return None

    def _run(self) -> None:
        try:
            with Watch(self._reference.model, self._tell, self._tell_arguments):
                self._reference.run(self._stage)
        except _Stopped:
            return
        except Exception as problem:
            self._error = problem
        self._put(None)

    def _tell(self, call: ModuleCall, output: Any) -> None:
        # Copies, because the code around the module may change a tensor in place while the subject compares it.
        kept = {place: Expected(whole=tensor.detach().clone()) for place, tensor in leaves(output)}
        if kept and not self._put((call, kept)):
            raise _Stopped

    def _tell_arguments(self, call: ModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._tell(call, arguments(args, kwargs))

    def _put(self, item: tuple[ModuleCall, dict[str, Expected]] | None) -> bool:
        """Wait for room in the queue, and put an item; return False when it is no longer needed."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
