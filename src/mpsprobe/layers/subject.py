"""A model with its input, ready to be run the same way as another one that it is compared with."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile
from mpsprobe.phases.data import move
from mpsprobe.phases.inference import autocast

#: Given to torch before every pass, for models that draw from its own generators.
SEED = 0


class Extent(str, enum.Enum):
    """What of a target is run."""

    FORWARD = "forward"
    INFERENCE = "inference"


@dataclass(frozen=True)
class Subject:
    """One side of a comparison.

    Attributes:
        label: for messages: `"mps"`, `"float32 on the CPU"`.
        model: in eval mode, on `device`.
        adapter: runs it.
        profile: its autocast region is this side's.
        device: where.
        batch: makes the processed input anew, on the CPU: inference may consume it.
        synchronize: waits for the device.
    """

    label: str
    model: torch.nn.Module
    adapter: Adapter
    profile: Profile
    device: torch.device
    batch: Callable[[], Batch]
    synchronize: Callable[[], None]

    def run(self, stage: Extent) -> Outputs:
        """One pass; its named results on the CPU.

        Raises:
            Exception: whatever the target raises.
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
