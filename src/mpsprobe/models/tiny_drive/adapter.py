"""The tiny driving model, for the phases."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from mpsprobe.models import trajectory
from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.pretrained import load_pretrained
from mpsprobe.models.tiny_drive.drive import synthetic_drive
from mpsprobe.models.tiny_drive.modeling import Rollout, TinyDrive, register
from mpsprobe.models.tiny_drive.processing import TinyDriveProcessor


class TinyDriveAdapter(Adapter):
    """Loads, samples and drives `TinyDrive`. `profile.inference` holds the arguments of its rollout."""

    meaning = trajectory.MEANING

    def load(self, device: torch.device, dtype: str) -> TinyDrive:
        register()
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
        return trajectory.judge(outputs["pred_xyz"], outputs["pred_rot"], reverses=False)

    @cached_property
    def _processor(self) -> TinyDriveProcessor:
        return TinyDriveProcessor(self.snapshot)
