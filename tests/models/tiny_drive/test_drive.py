import torch

from mpsprobe.models.tiny_drive.adapter import synthetic_drive


def test_form_of_a_sample() -> None:
    sample = synthetic_drive(frames=4, height=48, width=80)
    assert sample["image_frames"].shape == (4, 4, 3, 48, 80)
    assert sample["image_frames"].dtype == torch.uint8
    shapes = {name: tuple(value.shape) for name, value in sample.items() if name != "image_frames"}
    assert shapes == {
        "ego_history_xyz": (1, 1, 16, 3),
        "ego_history_rot": (1, 1, 16, 3, 3),
        "ego_future_xyz": (1, 1, 64, 3),
        "ego_future_rot": (1, 1, 64, 3, 3),
    }


def test_present_is_the_origin() -> None:
    sample = synthetic_drive()
    torch.testing.assert_close(sample["ego_history_xyz"][0, 0, -1], torch.zeros(3))
    torch.testing.assert_close(sample["ego_history_rot"][0, 0, -1], torch.eye(3))
    assert sample["ego_history_xyz"][0, 0, 0, 0] < -10  # came from behind
    assert sample["ego_future_xyz"][0, 0, -1, 0] > 30  # goes on ahead


def test_motion_is_continuous_and_plausible() -> None:
    sample = synthetic_drive()
    xyz = torch.cat([sample["ego_history_xyz"], sample["ego_future_xyz"]], dim=2)
    speed = xyz.diff(dim=2).norm(dim=-1) / 0.1
    assert 5 < float(speed.min()) <= float(speed.max()) < 9


def test_every_call_gives_the_same_and_every_image_differs() -> None:
    one, other = synthetic_drive(), synthetic_drive()
    assert all(torch.equal(one[name], other[name]) for name in one)
    images = one["image_frames"].flatten(0, 1)
    assert len({image.numpy().tobytes() for image in images}) == len(images)
