"""The record of a reference's pass: a sketch of every output, and the outputs that determine the next step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from mpsprobe.layers.leaves import leaves
from mpsprobe.layers.module_calls import Marker, ModuleCall, Watch
from mpsprobe.layers.sketch import Sketch, sketch
from mpsprobe.layers.subject import Extent, Subject
from mpsprobe.models.adapter import Outputs

#: The greatest size in bytes of the whole outputs of one pass; beyond it, later steps run freely, as the report says.
STEP_BYTES = 512 << 20

#: The path of the module, the number of its call, and the place of the tensor in the output.
Key = tuple[str, int, str]


@dataclass
class Expected:
    """The tensor that the reference's call received or returned at one place.

    Attributes:
        known: Its sketch, where it was made.
        whole: The tensor itself, on the CPU, where it was kept.
    """

    known: Sketch | None = None
    whole: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the tensor."""
        if self.whole is not None:
            return tuple(self.whole.shape)
        return self.sketch.shape

    @cached_property
    def sketch(self) -> Sketch:
        """Return the sketch, making it from the tensor if needed."""
        if self.known is not None:
            return self.known
        assert self.whole is not None
        return sketch(self.whole)


class Teacher(Protocol):
    """A source of the tensors that a call received or returned in the reference."""

    def expected(self, call: ModuleCall) -> dict[str, Expected] | None:
        """Return the tensors by place in the arguments or the output; None when the reference has no such call."""


@dataclass
class Capture:
    """A pass of the reference.

    Attributes:
        sketches: The sketches of all outputs, in the order in which the calls ended.
        steps: The whole outputs of outermost calls in inference, which determine the next step.
        outputs: The named results of the pass.
        steps_left_out: The number of outermost calls whose outputs were too large in total to be kept.
    """

    sketches: dict[Key, Sketch] = field(default_factory=dict)
    steps: dict[Key, torch.Tensor] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=dict)
    steps_left_out: int = 0

    @cached_property
    def _places(self) -> dict[tuple[str, int], list[str]]:
        places: dict[tuple[str, int], list[str]] = {}
        for path, nth, place in self.sketches:
            places.setdefault((path, nth), []).append(place)
        return places

    @property
    def calls(self) -> int:
        """Return the number of module calls with tensors in their output."""
        return len(self._places)

    @property
    def iterative(self) -> bool:
        """Return whether an outermost call was repeated (generation, flow steps), so that the run feeds on itself."""
        return any(nth > 0 for _, nth, _ in self.steps) or self.steps_left_out > 0

    def expected(self, call: ModuleCall) -> dict[str, Expected] | None:
        """Return the tensors of a call; see `Teacher`."""
        places = self._places.get((call.path, call.nth))
        if places is None:
            return None
        keys: Iterator[Key] = ((call.path, call.nth, place) for place in places)
        return {key[2]: Expected(self.sketches[key], self.steps.get(key)) for key in keys}


def capture(subject: Subject, stage: Extent, marker: Marker | None = None) -> Capture:
    """Run one pass freely and keep what a comparison needs.

    Raises:
        Exception: The target raised.
    """
    kept = Capture()
    room = STEP_BYTES

    def seen(call: ModuleCall, output: Any) -> None:
        nonlocal room
        for place, tensor in leaves(output):
            key = (call.path, call.nth, place)
            kept.sketches[key] = sketch(tensor)
            if stage is Extent.INFERENCE and call.parent is None:
                size = tensor.numel() * tensor.element_size()
                if size > room:
                    kept.steps_left_out += 1
                    continue
                room -= size
                kept.steps[key] = tensor.detach().to("cpu", copy=True)

    if marker is not None:
        marker.doing = f"{stage.value} on {subject.label}"
    with Watch(subject.model, seen, marker=marker):
        kept.outputs = subject.run(stage)
    return kept
