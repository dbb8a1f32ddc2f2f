"""Find the place in the forward pass for an op in autograd's backward pass.

Autograd runs the backward pass of `mps` in its own thread, where no line of the target is on the stack. Each node
of its graph has a sequence number, taken just before the node's kernel runs, so the kernel can record where it was
called from, and the backward of that node can look it up (torch/csrc/autograd/function.h, `sequence_nr`).
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch.autograd.function import BackwardCFunction

Place = TypeVar("Place")

_current_node = torch._C._current_autograd_node
_next_number = torch._C._autograd._get_sequence_nr

#: The greatest number of places; a training step of a large model has some 10,000.
_LIMIT = 1_000_000


class ForwardPlaces(Generic[Place]):
    """The place at which each node of the autograd graph was made.

    Sequence numbers count separately in each thread; of two forward passes in two threads, the first to use a
    number keeps it.

    Attributes:
        places: The places by sequence number; empty until one is recorded. It is public because every op reads it,
            and a method call would take longer.
    """

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}

    def clear(self) -> None:
        """Forget all places, so that no number of an earlier graph is taken for one of the next."""
        self.places.clear()

    def note(self, place: Place) -> None:
        """Record the place of the op whose kernel is running, for the node that autograd has just made for it.

        A place that is already recorded for the node stays. At a million places all are forgotten first.
        """
        if len(self.places) >= _LIMIT:
            self.places.clear()
        # An op that needs no gradient makes no node and gets the number of an earlier one, which keeps its place.
        self.places.setdefault(_next_number() - 1, place)

    def of_backward(self) -> Place | None:
        """Return the place of the forward op whose backward is running.

        Returns:
            The place. None outside a backward pass, for a node of which no place is recorded (such as one that
            accumulates a gradient), and in an `autograd.Function` of the target, whose `backward` is itself a line
            of the target.
        """
        if not self.places:
            return None
        node: Any = _current_node()
        if node is None or isinstance(node, BackwardCFunction):
            return None
        return self.places.get(node._sequence_nr())
