"""Trajectories: the unicycle action space, their discrete tokens, and a test of plausibility."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: The weight of the second differences relative to the residuals. Changes within about 0.6 s (a half-power
#: point of 16 SMOOTHING sin^4(w / 2) = 1 at 10 Hz) count as noise.
SMOOTHING = 1.0
#: The weight of curvature itself. It keeps the matrix positive definite when the vehicle stands, where curvature
#: cannot be observed. The condition number is then 16 SMOOTHING / RIDGE = 2e5, which float32 tolerates. At
#: 1 m/s (0.1 m a step) it reduces the curvature by 1 %, at 10 m/s not at all.
RIDGE = 1e-4


class UnicycleActionSpace:
    """Map normalised actions to trajectories in the frame of the last history point, and back.

    Attributes:
        time_step: The seconds between points.
        mean: The means of acceleration in m/s^2 and curvature in 1/m.
        std: The standard deviations of acceleration in m/s^2 and curvature in 1/m.
    """

    def __init__(
        self, time_step: float, acceleration: tuple[float, float], curvature: tuple[float, float]
    ) -> None:
        self.time_step = time_step
        self.mean = (acceleration[0], curvature[0])
        self.std = (acceleration[1], curvature[1])

    def to_trajectory(self, actions: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trajectory of `actions` (..., T, 2) from the origin, heading along x, at `speed` (...) in m/s.

        Args:
            actions: Normalised accelerations and curvatures (..., T, 2).
            speed: The speed (...) at the origin in m/s.

        Returns:
            Positions (..., T, 3) in metres (z is 0) and rotation matrices (..., T, 3, 3), float32, after each action.
        """
        actions = (
            actions.float() * actions.new_tensor(self.std).float() + actions.new_tensor(self.mean).float()
        )
        acceleration, curvature = actions.unbind(-1)
        speed = speed.float()[..., None]
        speeds = torch.cat([speed, speed + self.time_step * acceleration.cumsum(-1)], dim=-1)
        mean_speeds = (speeds[..., 1:] + speeds[..., :-1]) / 2
        turned = (curvature * mean_speeds * self.time_step).cumsum(-1)
        headings = torch.cat([torch.zeros_like(speed), turned], dim=-1)
        velocity = speeds[..., None] * torch.stack([headings.cos(), headings.sin()], dim=-1)
        xy = (self.time_step / 2 * (velocity[..., 1:, :] + velocity[..., :-1, :])).cumsum(-2)
        xyz = torch.cat([xy, torch.zeros_like(xy[..., :1])], dim=-1)
        return xyz, rotation_from_heading(turned)

    def from_trajectory(self, xyz: Tensor, rotation: Tensor) -> Tensor:
        """Return the normalised actions (..., T, 2) that best explain a trajectory from the origin, heading along x.

        They minimise squared errors plus a penalty on rapid changes; see `least_squares`.

        Args:
            xyz: Positions (..., T, 3) in metres.
            rotation: Rotations (..., T, 3, 3).
        """
        xyz, headings = xyz.float(), heading_from_rotation(rotation.float())
        xy = torch.cat([torch.zeros_like(xyz[..., :1, :2]), xyz[..., :2]], dim=-2)
        headings = torch.cat([torch.zeros_like(headings[..., :1]), unwrap(headings)], dim=-1)
        speeds = self.speeds(xy, headings)
        acceleration = speeds.diff(dim=-1) / self.time_step
        travelled = (speeds[..., 1:] + speeds[..., :-1]) * (self.time_step / 2)
        curvature = least_squares(torch.diag_embed(travelled), headings.diff(dim=-1), RIDGE)
        actions = torch.stack([acceleration, curvature], dim=-1)
        return (actions - actions.new_tensor(self.mean)) / actions.new_tensor(self.std)

    def last_speed(self, xyz: Tensor, rotation: Tensor) -> Tensor:
        """Return the speed (...) in m/s at the last point of a history.

        Args:
            xyz: Positions (..., T, 3) in metres.
            rotation: Rotations (..., T, 3, 3).
        """
        xyz, rotation = xyz.float(), rotation.float()
        return self.speeds(xyz[..., :2], heading_from_rotation(rotation))[..., -1]

    def speeds(self, xy: Tensor, headings: Tensor) -> Tensor:
        """Return smoothed speeds (..., N) in m/s at points `xy` (..., N, 2) in m with `headings` (..., N)."""
        steps = xy.diff(dim=-2) / self.time_step
        count = headings.shape[-1]
        eye = torch.eye(count, dtype=headings.dtype, device=headings.device)
        halves = (eye[:-1] + eye[1:]) / 2  # each step is covered at the mean velocity of its two ends
        direction = torch.stack([headings.cos(), headings.sin()])  # (2, ..., N)
        design = torch.cat(list(halves * direction[..., None, :]), dim=-2)  # (..., 2(N-1), N)
        return least_squares(design, torch.cat([steps[..., 0], steps[..., 1]], dim=-1))


def least_squares(design: Tensor, target: Tensor, ridge: float = 0.0) -> Tensor:
    """Return the x (..., N) that minimises |design x - target|^2 + SMOOTHING |x''|^2 + ridge |x|^2.

    x'' are the second differences of x.

    Args:
        design: A matrix (..., M, N).
        target: A vector (..., M).
        ridge: The weight of |x|^2; 0 where design and second differences together determine every x.
    """
    eye = torch.eye(design.shape[-1], dtype=design.dtype, device=design.device)
    second_difference = eye[:-2] - 2 * eye[1:-1] + eye[2:]
    penalty = SMOOTHING * second_difference.mT @ second_difference + ridge * eye
    normal = design.mT @ design + penalty
    moment = design.mT @ target[..., None]
    return torch.cholesky_solve(moment, torch.linalg.cholesky(normal))[..., 0]


def rotation_from_heading(headings: Tensor) -> Tensor:
    """Return rotations about z (..., 3, 3) by `headings` (...) in radians."""
    cos, sin, zero = headings.cos(), headings.sin(), torch.zeros_like(headings)
    rows = [cos, -sin, zero, sin, cos, zero, zero, zero, torch.ones_like(headings)]
    return torch.stack(rows, dim=-1).reshape(*headings.shape, 3, 3)


def heading_from_rotation(rotation: Tensor) -> Tensor:
    """Return the heading (...) in radians, in (-pi, pi], of rotations (..., 3, 3)."""
    return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0])


def unwrap(angles: Tensor) -> Tensor:
    """Return the same angles (..., T) without jumps of 2 pi between neighbours; the first one stays."""
    steps = angles.diff(dim=-1)
    steps = torch.atan2(steps.sin(), steps.cos())
    return torch.cat([angles[..., :1], angles[..., :1] + steps.cumsum(-1)], dim=-1)


@dataclass(frozen=True)
class UniformBins:
    """Map numbers in [-limit, limit] to indices of `count` equal bins; numbers outside go to the first or last bin."""

    limit: float
    count: int

    def encode(self, values: Tensor) -> Tensor:
        """Return bin indices (int64), in the shape of `values`."""
        scaled = (values.float() + self.limit) * (self.count / (2 * self.limit))
        return scaled.floor().clamp(0, self.count - 1).to(torch.int64)

    def decode(self, indices: Tensor) -> Tensor:
        """Return the centres of the bins, float32."""
        return (indices.float() + 0.5) * (2 * self.limit / self.count) - self.limit


@dataclass(frozen=True)
class DeltaTokenizer:
    """Encode the ego history as the steps between its points: T points give 3 T tokens, and the first step is zero.

    Attributes:
        bins: The bins of the steps in metres.
        offset: The id of the first bin's token.
    """

    bins: UniformBins
    offset: int

    def encode(self, xyz: Tensor) -> Tensor:
        """Return token ids (..., 3 T), point by point, of a history (..., T, 3) in metres."""
        steps = torch.cat([torch.zeros_like(xyz[..., :1, :]), xyz.diff(dim=-2)], dim=-2)
        return (self.bins.encode(steps) + self.offset).flatten(-2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the history (..., T, 3) in metres of token ids (..., 3 T), shifted to end at the origin."""
        steps = self.bins.decode(tokens - self.offset).reshape(*tokens.shape[:-1], -1, 3)
        xyz = steps.cumsum(-2)
        return xyz - xyz[..., -1:, :]


@dataclass(frozen=True)
class ActionTokenizer:
    """Encode normalised future actions as tokens: T waypoints give 2 T tokens (acceleration, curvature, ...).

    Attributes:
        bins: The bins of the normalised actions.
        offset: The id of the first bin's token.
    """

    bins: UniformBins
    offset: int

    def encode(self, actions: Tensor) -> Tensor:
        """Return token ids (..., 2 T) of actions (..., T, 2)."""
        return (self.bins.encode(actions) + self.offset).flatten(-2)

    def decode(self, tokens: Tensor) -> Tensor:
        """Return actions (..., T, 2) of token ids (..., 2 T)."""
        return self.bins.decode(tokens - self.offset).reshape(*tokens.shape[:-1], -1, 2)


MEANING = "The rotations rotate, the steps follow the headings, and a vehicle could drive them."
#: The largest speed in m/s. No road vehicle of a sample is faster; random actions over 6.4 s stay far below it.
_HIGHEST_SPEED = 70.0
#: A tolerance in metres. In a strong bend (10 m/s, 0.1 1/m) one step deviates from the mean heading by less than 0.01.
_LARGEST_SLIP = 0.1
_STEP_S = 0.1


def judge(xyz: Tensor, rotation: Tensor, *, reverses: bool) -> list[str]:
    """Return sentences about the faults of a trajectory; none when a vehicle could drive it.

    Args:
        xyz: Positions (..., points, 3) in metres, 0.1 s apart, in the frame of the present, x ahead.
        rotation: Rotations (..., points, 3, 3).
        reverses: Whether the target may drive backwards.
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
    # a unicycle moves along its heading: the mean of the headings at the two ends of a step
    headings = torch.cat([identity[:, 0].expand_as(xyz[..., :1, :]), rotation[..., 0]], dim=-2)
    along = torch.nn.functional.normalize(headings[..., 1:, :] + headings[..., :-1, :], dim=-1)
    ahead = (steps * along).sum(-1, keepdim=True)
    sideways = (steps - (ahead if reverses else ahead.clamp_min(0)) * along).norm(dim=-1)
    if (slip := _largest(sideways)) > _LARGEST_SLIP:
        problems.append(f"pred_xyz leaves the heading of pred_rot by {slip:.2g} m in one step.")
    return problems


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
