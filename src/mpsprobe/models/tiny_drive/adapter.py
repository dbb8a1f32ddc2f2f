"""The tiny driving model, for the phases."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.pretrained import load_pretrained
from mpsprobe.models.tiny_drive.drive import synthetic_drive
from mpsprobe.models.tiny_drive.modeling import Rollout, TinyDrive
from mpsprobe.models.tiny_drive.processing import TinyDriveProcessor

#: m/s. No road vehicle of a sample is faster; random actions over 6.4 s stay far below.
_HIGHEST_SPEED = 70.0
#: Metres. At 10 m/s and 0.1 1/m, a strong bend, the chord of one step is off the mean heading by under 0.01.
_LARGEST_SLIP = 0.1


class TinyDriveAdapter(Adapter):
    """Loads, samples and drives `TinyDrive`. `profile.inference` holds the arguments of its rollout."""

    meaning = "The rotations rotate, the steps follow the headings, and a vehicle could drive them."

    def load(self, device: torch.device, dtype: str) -> TinyDrive:
        model = load_pretrained(
            TinyDrive, self.snapshot, device, dtype, self.profile.attention, weights=self.weights
        )
        assert isinstance(model, TinyDrive)
        return model

    def sample(self) -> dict[str, Any]:
        return synthetic_drive(**self.profile.sample)

    def prepare(self, sample: dict[str, Any]) -> Batch:
        return self._processor(sample)

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """`logits` (1, L, vocabulary), `velocity` (1, 64, 2) and the history's `ego_speed` (1, 1) in m/s."""
        assert isinstance(model, TinyDrive)
        output = model(**batch)
        speed = model.action_space.last_speed(batch["ego_history_xyz"], batch["ego_history_rot"])
        return {
            "logits": output.logits.cpu(),
            "velocity": output.velocity.cpu(),
            "ego_speed": speed.cpu(),
        }

    def infer(self, model: torch.nn.Module, batch: Batch) -> Rollout:
        assert isinstance(model, TinyDrive)
        return model.rollout(**batch, **self.profile.inference)

    def extract(self, raw: Rollout) -> Outputs:
        """`pred_xyz` (1, 1, n, 64, 3) m, `pred_rot` (1, 1, n, 64, 3, 3); `cot`, `meta_action`, `answer`."""
        sections = [self._processor.sections(tokens) for tokens in raw.tokens.tolist()]
        texts = {name: [section[name] for section in sections] for name in sections[0]}
        return {"pred_xyz": raw.pred_xyz.cpu(), "pred_rot": raw.pred_rot.cpu(), **texts}

    def judge(self, outputs: Outputs) -> list[str]:
        """Whether the trajectory is one: rotations that rotate, steps that a vehicle can drive."""
        xyz, rotation = outputs["pred_xyz"].double(), outputs["pred_rot"].double()
        problems = []
        identity = torch.eye(3, dtype=rotation.dtype)
        if (error := _largest(rotation @ rotation.mT - identity)) > 1e-4:
            problems.append(
                f"pred_rot holds matrices that are no rotations (R R' differs from 1 by {error:.2g})."
            )
        steps = torch.cat([xyz[..., :1, :], xyz.diff(dim=-2)], dim=-2)
        if (speed := _largest(steps.norm(dim=-1)) / 0.1) > _HIGHEST_SPEED:
            problems.append(f"pred_xyz moves at {speed:.0f} m/s, more than {_HIGHEST_SPEED:.0f}.")
        # a unicycle moves where it heads: along the mean of the headings at the two ends of a step
        headings = torch.cat([identity[:, 0].expand_as(xyz[..., :1, :]), rotation[..., 0]], dim=-2)
        along = torch.nn.functional.normalize(headings[..., 1:, :] + headings[..., :-1, :], dim=-1)
        sideways = (steps - (steps * along).sum(-1, keepdim=True).clamp_min(0) * along).norm(dim=-1)
        if (slip := _largest(sideways)) > _LARGEST_SLIP:
            problems.append(f"pred_xyz leaves the heading of pred_rot by {slip:.2g} m in one step.")
        return problems

    @cached_property
    def _processor(self) -> TinyDriveProcessor:
        return TinyDriveProcessor(self.snapshot)


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
