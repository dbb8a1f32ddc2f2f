"""Run a pass that is compared with a reference's, call by call, and replaced by it where that is required."""

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
    """The outputs on which the calls after a compared one work."""

    FREE = "free"  #: the pass's own outputs: errors accumulate from layer to layer
    STEPS = "steps"  #: the reference's outputs after each outermost call: errors accumulate within a step
    #: the reference's tensors at the beginning and end of every call: only each module's own error remains
    LAYERS = "layers"


@dataclass(frozen=True)
class Compared:
    """One tensor of one call.

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
    """A compared pass.

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
    subject: Subject, stage: Extent, teacher: Teacher, forcing: Forcing, marker: Marker | None = None
) -> Followed:
    """Run one pass, and compare every call with the teacher's.

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
