"""Whether a trajectory is one: rotations that rotate, steps that a vehicle can drive."""

from __future__ import annotations

import torch
from torch import Tensor

MEANING = "The rotations rotate, the steps follow the headings, and a vehicle could drive them."
#: m/s. No road vehicle of a sample is faster; random actions over 6.4 s stay far below.
_HIGHEST_SPEED = 70.0
#: Metres. At 10 m/s and 0.1 1/m, a strong bend, the chord of one step is off the mean heading by under 0.01.
_LARGEST_SLIP = 0.1
_STEP_S = 0.1


def judge(xyz: Tensor, rotation: Tensor, *, reverses: bool) -> list[str]:
    """What is wrong with a trajectory, one sentence each.

    Args:
        xyz: (..., points, 3) metres, in the frame of the present, x ahead.
        rotation: (..., points, 3, 3).
        reverses: the target may drive backwards.
    """
    xyz, rotation = xyz.double(), rotation.double()
    problems = []
    identity = torch.eye(3, dtype=rotation.dtype)
    if (error := _largest(rotation @ rotation.mT - identity)) > 1e-4:
        problems.append(
            f"pred_rot holds matrices that are no rotations (R R' differs from 1 by {error:.2g})."
        )
    steps = torch.cat([xyz[..., :1, :], xyz.diff(dim=-2)], dim=-2)
    if (speed := _largest(steps.norm(dim=-1)) / _STEP_S) > _HIGHEST_SPEED:
        problems.append(f"pred_xyz moves at {speed:.0f} m/s, more than {_HIGHEST_SPEED:.0f}.")
    # a unicycle moves where it heads: along the mean of the headings at the two ends of a step
    headings = torch.cat([identity[:, 0].expand_as(xyz[..., :1, :]), rotation[..., 0]], dim=-2)
    along = torch.nn.functional.normalize(headings[..., 1:, :] + headings[..., :-1, :], dim=-1)
    ahead = (steps * along).sum(-1, keepdim=True)
    sideways = (steps - (ahead if reverses else ahead.clamp_min(0)) * along).norm(dim=-1)
    if (slip := _largest(sideways)) > _LARGEST_SLIP:
        problems.append(f"pred_xyz leaves the heading of pred_rot by {slip:.2g} m in one step.")
    return problems


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
