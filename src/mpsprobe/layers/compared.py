"""Run the pass that is compared, call by call, and its reference in parallel or ahead of it."""

from __future__ import annotations

import enum
import queue
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from mpsprobe.layers.capture import Distance, Expected, ReferencePass, distance, sketch
from mpsprobe.layers.module_calls import (
    Extent,
    Marker,
    ModuleCall,
    Subject,
    Watch,
    arguments,
    leaves,
    replaced,
)
from mpsprobe.models.adapter import Outputs


class Forcing(str, enum.Enum):
    """Which outputs the calls after a compared one receive."""

    FREE = "free"  #: the pass's own outputs: errors accumulate from layer to layer
    STEPS = "steps"  #: the reference's outputs after each outermost call: errors accumulate within a step
    #: the reference's tensors at the beginning and end of every call: only each module's own error remains
    LAYERS = "layers"


@dataclass(frozen=True)
class Compared:
    """One tensor of one call, compared with the reference's.

    Attributes:
        call: The call, at its beginning (an argument) or at its end (an output).
        place: The place of the tensor in the arguments or in the output.
        order: The running number in the pass.
        distance: The distance from the reference.
        size: The number of elements.
    """

    call: ModuleCall
    place: str
    order: int
    distance: Distance
    size: int

    @property
    def maker(self) -> str | None:
        """Return the path of the module whose own code made this tensor from its inputs.

        The module that made an argument is the caller of the module that takes it; that of an output is the called
        module. None when the caller is not in any module.
        """
        return self.call.parent if self.call.entering else self.call.path


@dataclass
class Followed:
    """The results of a pass that was compared call by call.

    Attributes:
        compared: The compared tensors, in the order of the pass.
        calls: The number of module calls that returned tensors.
        unmatched: The number of those calls that the reference did not make.
        unforced: The number of outputs that should have been replaced by the reference's and were not, because the
            reference's was not kept or has another shape.
        other_shapes: The number of arguments that have another shape in the reference. They are kept and not
            compared, because the format of a mask depends on the code path, and a wrong one shows in the outputs.
        outputs: The named results.
    """

    compared: list[Compared] = field(default_factory=list)
    calls: int = 0
    unmatched: int = 0
    unforced: int = 0
    other_shapes: int = 0
    outputs: Outputs = field(default_factory=dict)


def follow(
    subject: Subject,
    stage: Extent,
    reference_pass: ReferencePass,
    forcing: Forcing,
    marker: Marker | None = None,
) -> Followed:
    """Run one pass, and compare every call with the reference's.

    Raises:
        Exception: The target raised.
    """
    result = Followed()

    def compare(call: ModuleCall, value: Any, *, force: bool) -> Any:
        """Compare a call's tensors, and return the value, with the reference's tensors in their place if requested."""
        found = dict(leaves(value))
        if not found:
            return value
        result.calls += not call.entering
        expected = reference_pass.expected(call)
        if expected is None:
            result.unmatched += not call.entering
            return value
        for place, tensor in found.items():
            if place in expected:
                if call.entering and tensor.shape != expected[place].shape:
                    result.other_shapes += 1
                    continue
                apart = distance(sketch(tensor), expected[place].sketch)
                result.compared.append(Compared(call, place, len(result.compared), apart, tensor.numel()))
        if not force:
            return value
        new = _instead(found, expected)
        result.unforced += len(found) - len(new)
        return replaced(value, new)

    def seen(call: ModuleCall, output: Any) -> Any:
        force = forcing is Forcing.LAYERS or (forcing is Forcing.STEPS and call.parent is None)
        return compare(call, output, force=force)

    def entering(
        call: ModuleCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = compare(call, arguments(args, kwargs), force=True)
        return given["args"], given["kwargs"]

    if marker is not None:
        marker.doing = f"{stage.value} on {subject.label}"
    with Watch(subject.model, seen, entering if forcing is Forcing.LAYERS else None, marker):
        result.outputs = subject.run(stage)
    return result


def _instead(found: dict[str, torch.Tensor], expected: dict[str, Expected]) -> dict[str, torch.Tensor]:
    """Return copies of the reference's tensors that fit, with the dtype and device of those found.

    They are copies, because the code that receives them may change them in place, and the reference serves other
    passes.
    """
    return {
        place: _cast(whole, tensor.dtype).to(tensor.device, copy=True)
        for place, tensor in found.items()
        if place in expected and (whole := expected[place].whole) is not None and whole.shape == tensor.shape
    }


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast without creating infinities: a mask's lowest float32 would become -inf in half precision, and then NaN."""
    if not (tensor.is_floating_point() and dtype.is_floating_point):
        return tensor.to(dtype)
    limits = torch.finfo(dtype)
    if limits.max >= torch.finfo(tensor.dtype).max:
        return tensor.to(dtype)
    return torch.where(tensor.isinf(), tensor, tensor.clamp(limits.min, limits.max)).to(dtype)


#: The greatest number of calls whose tensors wait: those ahead of the subject, and those that the subject skipped.
_AHEAD = 4
_WAITING = 64
_POLL_S = 0.1


class _Stopped(BaseException):
    """Ends the reference's thread; a BaseException, so that no handler of the target's takes it for an error."""


class Lockstep:
    """Run the reference in a thread, ahead of the compared pass, while the context lasts.

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
        """Return what the reference received or returned in this call; see `ReferencePass.expected`.

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
            answered, outputs = item
            if (answered.path, answered.nth, answered.entering) == wanted:
                return outputs
            self._waiting[answered.path, answered.nth, answered.entering] = outputs
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
        """Wait for room in the queue, and put an item; return False when the compared pass has ended instead."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
