"""A model with its input, ready to run in the same way as another one that it is compared with."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile
from mpsprobe.phases.data import move
from mpsprobe.phases.inference import autocast

#: The seed that torch gets before every pass, for models that use its own generators.
SEED = 0


class Extent(str, enum.Enum):
    """The stages of a target that can be run."""

    FORWARD = "forward"
    INFERENCE = "inference"


@dataclass(frozen=True)
class Subject:
    """One side of a comparison.

    Attributes:
        label: The name for messages: `"mps"`, `"float32 on the CPU"`.
        model: The model in eval mode, on `device`.
        adapter: The adapter that runs it.
        profile: The profile, with this side's autocast region.
        device: The device of the model.
        batch: A function that makes the processed input anew on the CPU, because inference may consume it.
        synchronize: A function that waits for the device.
    """

    label: str
    model: torch.nn.Module
    adapter: Adapter
    profile: Profile
    device: torch.device
    batch: Callable[[], Batch]
    synchronize: Callable[[], None]

    def run(self, stage: Extent) -> Outputs:
        """Run one pass, and return its named results on the CPU.

        Raises:
            Exception: The target raised.
        """
        torch.manual_seed(SEED)
        with self.adapter.grad_mode, autocast(self.profile, self.device):
            batch = move(self.batch(), self.device)
            if stage is Extent.FORWARD:
                outputs = self.adapter.forward(self.model, batch)
            else:
                outputs = self.adapter.extract(self.adapter.infer(self.model, batch))
            self.synchronize()
            on_cpu: Outputs = move(outputs, torch.device("cpu"))
        return on_cpu
