"""A pass that is compared with a reference's, call by call, and held to it where that is asked for."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import torch

from mpsprobe.layers.capture import Expected, Teacher
from mpsprobe.layers.leaves import arguments, leaves, replaced
from mpsprobe.layers.module_calls import Marker, ModuleCall, Watch
from mpsprobe.layers.sketch import Distance, distance, sketch
from mpsprobe.layers.subject import Extent, Subject
from mpsprobe.models.adapter import Outputs


class Forcing(str, enum.Enum):
    """Whose outputs the calls after a compared one work on."""

    FREE = "free"  #: the pass's own: errors add up from layer to layer
    STEPS = "steps"  #: the reference's after each outermost call: errors add up within a step alone
    #: the reference's at the beginning and at the end of every call: what is left is each module's own error
    LAYERS = "layers"


@dataclass(frozen=True)
class Compared:
    """One tensor of one call.

    Attributes:
        call: which, at its beginning (an argument) or at its end (an output).
        place: of the tensor in the arguments or in the output.
        order: running number in the pass.
        distance: from the reference.
        size: elements.
    """

    call: ModuleCall
    place: str
    order: int
    distance: Distance
    size: int

    @property
    def maker(self) -> str | None:
        """Path of the module whose own code made this tensor from what it was given.

        Of an argument, the caller's; None when that is not in any module.
        """
        return self.call.parent if self.call.entering else self.call.path


@dataclass
class Followed:
    """A compared pass.

    Attributes:
        compared: in the order in which the pass came by.
        calls: calls of modules that returned tensors.
        unmatched: of those, calls that the reference did not make.
        unforced: outputs that should have been replaced by the reference's and were not, because that one was
            not kept or has another shape.
        other_shapes: arguments that have another shape in the reference. They are left as they are and not
            compared: in which form a mask is handed on is a matter of the code's path, and what a wrong one
            does shows in the outputs.
        outputs: named results.
    """

    compared: list[Compared] = field(default_factory=list)
    calls: int = 0
    unmatched: int = 0
    unforced: int = 0
    other_shapes: int = 0
    outputs: Outputs = field(default_factory=dict)


def follow(
    subject: Subject, stage: Extent, teacher: Teacher, forcing: Forcing, marker: Marker | None = None
) -> Followed:
    """Run one pass, and compare every call with the teacher's.

    Raises:
        Exception: whatever the target raises.
    """
    result = Followed()

    def compare(call: ModuleCall, value: Any, *, force: bool) -> Any:
        """Compare a call's tensors; the value with the reference's in their place where that is wanted."""
        found = dict(leaves(value))
        if not found:
            return value
        result.calls += not call.entering
        expected = teacher.expected(call)
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

    Copies, because the code that is given them may change them in place, and the reference serves other passes.
    """
    return {
        place: _cast(whole, tensor.dtype).to(tensor.device, copy=True)
        for place, tensor in found.items()
        if place in expected and (whole := expected[place].whole) is not None and whole.shape == tensor.shape
    }


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast without making infinities: a mask's lowest float32 would be -inf in a half precision, and NaN follows."""
    if not (tensor.is_floating_point() and dtype.is_floating_point):
        return tensor.to(dtype)
    limits = torch.finfo(dtype)
    if limits.max >= torch.finfo(tensor.dtype).max:
        return tensor.to(dtype)
    return torch.where(tensor.isinf(), tensor, tensor.clamp(limits.min, limits.max)).to(dtype)
