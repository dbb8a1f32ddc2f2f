"""The tiny driving model for the phases: a synthetic drive, its processing, and the adapter."""

from __future__ import annotations

import importlib
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.tiny_drive import trajectories
from mpsprobe.models.tiny_drive.modeling import Rollout, TinyDrive, register
from mpsprobe.models.tiny_drive.trajectories import UnicycleActionSpace, heading_from_rotation
from mpsprobe.models.transformers_auto import load_pretrained

#: Yaw (left is positive) and horizontal field of view of each camera, in radians.
CAMERAS = {
    "front wide": (0.0, math.radians(120)),
    "front tele": (0.0, math.radians(30)),
    "cross left": (math.radians(60), math.radians(100)),
    "cross right": (math.radians(-60), math.radians(100)),
}
_CAMERA_HEIGHT = 1.6  # metres above the road
_HISTORY, _FUTURE, _TIME_STEP = 16, 64, 0.1


def synthetic_drive(frames: int = 4, height: int = 72, width: int = 144) -> dict[str, Any]:
    """Make one sample, in which the vehicle follows a gentle S bend at about 8 m/s and slows down.

    Args:
        frames: The number of frames of each camera, 0.1 s apart, the last at the present.
        height: The height of the images in pixels.
        width: The width of the images in pixels.

    Returns:
        `image_frames` (4, frames, 3, height, width) uint8; `ego_history_xyz` (1, 1, 16, 3) in m and
        `ego_history_rot` (1, 1, 16, 3, 3), float32, in the frame of the last history point; and, in the same frame,
        `ego_future_xyz` and `ego_future_rot`, the 64 points that follow.
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
    """Return positions (80, 3) and rotations (80, 3, 3): history, then future, with the present at the origin."""
    time = torch.arange(_HISTORY + _FUTURE) * _TIME_STEP
    actions = torch.stack([-0.25 * (time / 4).sin(), 0.02 * (time / 1.5).sin()], dim=-1)
    space = UnicycleActionSpace(_TIME_STEP, (0.0, 1.0), (0.0, 1.0))
    xyz, rotation = space.to_trajectory(actions, torch.tensor(8.0))
    origin, frame = xyz[_HISTORY - 1], rotation[_HISTORY - 1]
    return (xyz - origin) @ frame, frame.mT @ rotation


def _render(
    position: np.ndarray, heading: float, field_of_view: float, height: int, width: int
) -> np.ndarray:
    """Render one image (3, height, width) uint8 of a pinhole camera over flat ground with lane markings."""
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


_TASK = " follow the road ahead and keep the lane"


class TinyDriveProcessor:
    """A processor that makes the model's batches, with an image processor that never uses torchvision.

    Attributes:
        tokenizer: The repository's tokenizer.
        image_processor: Qwen2-VL's image processor, in its variant with Pillow and NumPy.
    """

    def __init__(self, snapshot: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(snapshot)
        self.image_processor = _image_processor_class().from_pretrained(snapshot)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Make the model's inputs, on the CPU, from one sample of `synthetic_drive`.

        Returns:
            `input_ids` and `attention_mask` (1, L) int64, `pixel_values` (patches, 1536) float32,
            `image_grid_thw` (images, 3) int64, `ego_history_xyz` (1, 1, 16, 3) and `ego_history_rot`
            (1, 1, 16, 3, 3) float32.
        """
        frames = sample["image_frames"]
        images = self.image_processor(images=list(frames.flatten(0, 1).numpy()), return_tensors="pt")
        patches_per_token = self.image_processor.merge_size**2
        tokens = (images["image_grid_thw"].prod(-1) // patches_per_token).tolist()
        history = 3 * sample["ego_history_xyz"].shape[-2]
        text = self.tokenizer(self._prompt(tokens, frames.shape[1], history), return_tensors="pt")
        return {
            "input_ids": text["input_ids"],
            "attention_mask": text["attention_mask"],
            "pixel_values": images["pixel_values"].to(torch.float32),
            "image_grid_thw": images["image_grid_thw"].to(torch.int64),
            "ego_history_xyz": sample["ego_history_xyz"].clone(),
            "ego_history_rot": sample["ego_history_rot"].clone(),
        }

    def _prompt(self, image_tokens: list[int], frames: int, history_tokens: int) -> str:
        images = [f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in image_tokens]
        views = "".join(
            f" {name}:" + "".join(images[camera * frames : (camera + 1) * frames])
            for camera, name in enumerate(CAMERAS)
        )
        history = f"<|traj_history_start|>{'<|traj_history|>' * history_tokens}<|traj_history_end|>"
        return f"<|im_start|>user\n{views}{history}{_TASK}<|im_end|>\n<|im_start|>assistant\n<|cot_start|>"

    def sections(self, tokens: list[int]) -> dict[str, str]:
        """Return the texts of a generated answer: `cot` (which the prompt opened), `meta_action` and `answer`.

        A section that was not closed is empty.
        """
        text = self.tokenizer.decode(tokens, skip_special_tokens=False)
        cot, closed, _ = text.partition("<|cot_end|>")
        found = {"cot": cot.removeprefix("<|cot_start|>").strip() if closed else ""}
        for name in ("meta_action", "answer"):
            _, _, opened = text.partition(f"<|{name}_start|>")
            inside, closed, _ = opened.partition(f"<|{name}_end|>")
            found[name] = inside.strip() if closed else ""
        return found


def _image_processor_class() -> Any:
    """Return the image processor's class without torchvision, which is the only one in transformers 4.57."""
    package = "transformers.models.qwen2_vl"
    try:
        return importlib.import_module(f"{package}.image_processing_pil_qwen2_vl").Qwen2VLImageProcessorPil
    except ModuleNotFoundError:
        return importlib.import_module(f"{package}.image_processing_qwen2_vl").Qwen2VLImageProcessor


class TinyDriveAdapter(Adapter):
    """An adapter that loads, samples and runs `TinyDrive`; `profile.inference` holds the arguments of its rollout."""

    meaning = trajectories.MEANING

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
        """Return `logits` (1, L, vocabulary), `velocity` (1, 64, 2) and the history's `ego_speed` (1, 1) in m/s."""
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
        """Return `pred_xyz` (1, 1, n, 64, 3) in m, `pred_rot` (1, 1, n, 64, 3, 3), and one text of each section.

        n is `num_traj_samples`; the trajectories share one answer. The sections are `cot`, `meta_action` and `answer`.
        """
        sections = [self._processor.sections(tokens) for tokens in raw.tokens.tolist()]
        texts = {name: [section[name] for section in sections] for name in sections[0]}
        return {"pred_xyz": raw.pred_xyz.cpu(), "pred_rot": raw.pred_rot.cpu(), **texts}

    def judge(self, outputs: Outputs) -> list[str]:
        """Return faults of the trajectory: rotations that do not rotate, or steps that no vehicle could drive."""
        return trajectories.judge(outputs["pred_xyz"], outputs["pred_rot"], reverses=False)

    @cached_property
    def _processor(self) -> TinyDriveProcessor:
        return TinyDriveProcessor(self.snapshot)
