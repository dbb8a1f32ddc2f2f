import math

import numpy as np
import torch

from mpsprobe.models.tiny_drive import trajectories
from mpsprobe.models.tiny_drive.trajectories import UnicycleActionSpace

PLAIN = UnicycleActionSpace(0.1, (0.0, 1.0), (0.0, 1.0))


def drive(acceleration: float, curvature: float, speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    actions = torch.tensor([acceleration, curvature]).expand(64, 2)
    return PLAIN.to_trajectory(actions, torch.tensor(speed))


def test_straight_line_under_constant_acceleration() -> None:
    xyz, rotation = drive(0.5, 0.0, 7.0)
    time = 0.1 * torch.arange(1, 65)
    torch.testing.assert_close(xyz[:, 0], 7.0 * time + 0.25 * time**2)
    assert not xyz[:, 1:].any()
    torch.testing.assert_close(rotation, torch.eye(3).expand(64, 3, 3))


def test_constant_curvature_is_a_circle() -> None:
    xyz, rotation = drive(0.0, 0.05, 10.0)
    arc = 1.0 * torch.arange(1, 65) * 0.05  # radians turned
    # the trapezoid's chords: the points lie on the circle to second order in the angle of one step
    torch.testing.assert_close(xyz[:, 0], 20 * arc.sin(), atol=0.01, rtol=0)
    torch.testing.assert_close(xyz[:, 1], 20 * (1 - arc.cos()), atol=0.01, rtol=0)
    headings = trajectories.heading_from_rotation(rotation)
    torch.testing.assert_close(trajectories.unwrap(headings), arc)


def test_actions_are_normalised() -> None:
    space = UnicycleActionSpace(0.1, (0.2, 2.0), (0.01, 0.03))
    plain, _ = drive(0.2 + 2.0 * 0.5, 0.01 - 0.03 * 0.4, 5.0)
    scaled, _ = space.to_trajectory(torch.tensor([0.5, -0.4]).expand(64, 2), torch.tensor(5.0))
    torch.testing.assert_close(scaled, plain)


def test_smooth_drive_survives_the_round_trip() -> None:
    time = 0.1 * torch.arange(64)
    actions = torch.stack([0.8 * (time / 2).sin(), 0.03 * (time / 1.5).cos()], dim=-1).expand(2, 1, 3, 64, 2)
    speed = torch.tensor(9.0).expand(2, 1, 3)
    xyz, rotation = PLAIN.to_trajectory(actions, speed)
    found = PLAIN.from_trajectory(xyz, rotation)
    assert found.shape == actions.shape
    torch.testing.assert_close(found[..., 0], actions[..., 0], atol=0.05, rtol=0)  # m/s^2
    torch.testing.assert_close(found[..., 1], actions[..., 1], atol=1e-3, rtol=0)  # 1/m
    again, _ = PLAIN.to_trajectory(found, speed)
    assert float((again - xyz).abs().max()) < 0.05  # metres, after 64


def test_noise_is_smoothed() -> None:
    xyz, rotation = drive(0.3, 0.01, 8.0)
    noise = 0.02 * torch.randn(xyz.shape, generator=torch.Generator().manual_seed(1))
    acceleration = PLAIN.from_trajectory(xyz + noise, rotation)[:, 0]
    naive = (xyz + noise)[:, 0].diff().diff() / 0.1**2
    assert float((acceleration - 0.3).std()) < 0.2 * float((naive - 0.3).std())


def test_standing_vehicle_has_finite_actions() -> None:
    actions = PLAIN.from_trajectory(torch.zeros(64, 3), torch.eye(3).expand(64, 3, 3))
    torch.testing.assert_close(actions, torch.zeros(64, 2))


def test_speed_at_the_end_of_a_history() -> None:
    xyz, rotation = drive(-1.0, 0.02, 12.0)
    origin, frame = xyz[15], rotation[15]
    speed = PLAIN.last_speed(((xyz - origin) @ frame)[None, :16], (frame.mT @ rotation)[None, :16])
    assert math.isclose(float(speed), 12.0 - 1.6, abs_tol=0.02)


def test_least_squares_agrees_with_numpy() -> None:
    generator = torch.Generator().manual_seed(2)
    design = torch.randn(3, 20, 8, generator=generator, dtype=torch.float64)
    target = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    found = trajectories.least_squares(design, target, ridge=0.5)
    eye = np.eye(8)
    second = np.diff(eye, n=2, axis=0)
    for row in range(3):
        stacked = np.vstack(
            [
                design[row].numpy(),
                math.sqrt(trajectories.SMOOTHING) * second,
                math.sqrt(0.5) * eye,
            ]
        )
        wanted = np.concatenate([target[row].numpy(), np.zeros(len(second) + 8)])
        expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-9)


def test_unwrap_agrees_with_numpy() -> None:
    angles = torch.linspace(0, 20, 50, dtype=torch.float64)
    wrapped = torch.remainder(angles + math.pi, 2 * math.pi) - math.pi
    np.testing.assert_allclose(trajectories.unwrap(wrapped).numpy(), np.unwrap(wrapped.numpy()))


def test_rotations_rotate() -> None:
    headings = torch.linspace(-3, 3, 7)
    rotation = trajectories.rotation_from_heading(headings)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(7, 3, 3))
    torch.testing.assert_close(trajectories.heading_from_rotation(rotation), headings)


def test_bfloat16_actions_are_driven_in_float32() -> None:
    xyz, rotation = PLAIN.to_trajectory(torch.zeros(64, 2, dtype=torch.bfloat16), torch.tensor(8.0))
    assert xyz.dtype == rotation.dtype == torch.float32
    assert PLAIN.from_trajectory(xyz, rotation).dtype == torch.float32
