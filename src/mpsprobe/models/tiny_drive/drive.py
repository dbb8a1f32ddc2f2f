"""A synthetic drive: four cameras over a marked road, the path driven and the path to come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpsprobe.models.tiny_drive.action_space import UnicycleActionSpace, heading_from_rotation

#: Yaw (radians, left positive) and horizontal field of view of each camera.
CAMERAS = {
    "front wide": (0.0, math.radians(120)),
    "front tele": (0.0, math.radians(30)),
    "cross left": (math.radians(60), math.radians(100)),
    "cross right": (math.radians(-60), math.radians(100)),
}
_CAMERA_HEIGHT = 1.6  # metres above the road
_HISTORY, _FUTURE, _TIME_STEP = 16, 64, 0.1


def synthetic_drive(frames: int = 4, height: int = 72, width: int = 144) -> dict[str, Any]:
    """One sample: the vehicle follows a gentle S bend at about 8 m/s and slows down.

    Args:
        frames: of each camera, one each 0.1 s, the last at the present.
        height: of the images, pixels.
        width: likewise.

    Returns:
        `image_frames` (4, frames, 3, height, width) uint8; `ego_history_xyz` (1, 1, 16, 3) and
        `ego_history_rot` (1, 1, 16, 3, 3), float32 metres in the frame of the last history point;
        `ego_future_xyz`, `ego_future_rot`: the 64 points really driven.
    """
    xyz, rotation = _path()
    headings = heading_from_rotation(rotation)
    images = np.empty((len(CAMERAS), frames, 3, height, width), np.uint8)
    for camera, (yaw, field_of_view) in enumerate(CAMERAS.values()):
        for frame in range(frames):
            point = _HISTORY - frames + frame
            heading = float(headings[point]) + yaw
            images[camera, frame] = _render(xyz[point].numpy(), heading, field_of_view, height, width)
    xyz, rotation = xyz[None, None], rotation[None, None]
    return {
        "image_frames": torch.from_numpy(images),
        "ego_history_xyz": xyz[:, :, :_HISTORY].contiguous(),
        "ego_history_rot": rotation[:, :, :_HISTORY].contiguous(),
        "ego_future_xyz": xyz[:, :, _HISTORY:].contiguous(),
        "ego_future_rot": rotation[:, :, _HISTORY:].contiguous(),
    }


def _path() -> tuple[Tensor, Tensor]:
    """Positions (80, 3) and rotations (80, 3, 3): history, then future, with the present at the origin."""
    time = torch.arange(_HISTORY + _FUTURE) * _TIME_STEP
    actions = torch.stack([-0.25 * (time / 4).sin(), 0.02 * (time / 1.5).sin()], dim=-1)
    space = UnicycleActionSpace(_TIME_STEP, (0.0, 1.0), (0.0, 1.0))
    xyz, rotation = space.to_trajectory(actions, torch.tensor(8.0))
    origin, frame = xyz[_HISTORY - 1], rotation[_HISTORY - 1]
    return (xyz - origin) @ frame, frame.mT @ rotation


def _render(
    position: np.ndarray, heading: float, field_of_view: float, height: int, width: int
) -> np.ndarray:
    """One image (3, height, width) uint8 of a pinhole camera over flat ground with lane markings."""
    focal = width / 2 / math.tan(field_of_view / 2)
    right = (np.arange(width) - width / 2 + 0.5) / focal
    down = (np.arange(height) - height / 2 + 0.5) / focal
    below = down > 0
    forward = _CAMERA_HEIGHT / np.where(below, down, 1.0)[:, None]  # metres ahead of the camera
    left = -forward * right[None, :]
    x = position[0] + forward * math.cos(heading) - left * math.sin(heading)
    y = position[1] + forward * math.sin(heading) + left * math.cos(heading)
    shade = np.full((height, width), 70.0)  # asphalt
    shade[np.abs(y) > 5.25] = 120  # verge
    dashed = (np.abs(np.abs(y) - 1.75) < 0.12) & (np.mod(x, 6.0) < 3.0)
    shade[dashed | (np.abs(np.abs(y) - 5.1) < 0.12)] = 230
    shade = np.where(below[:, None], shade, 180.0 + 40.0 * down[:, None])  # sky, darker towards the horizon
    tint = np.array([0.95, 1.0, 1.05])[:, None, None]
    image: np.ndarray = np.clip(shade * tint, 0, 255).astype(np.uint8)
    return image
