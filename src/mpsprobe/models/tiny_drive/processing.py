"""From a drive to the model's inputs: the prompt's tokens and the images' patches."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from mpsprobe.models.tiny_drive.drive import CAMERAS

_TASK = " follow the road ahead and keep the lane"


class TinyDriveProcessor:
    """Builds batches. The image processor is the one without torchvision, whether or not that is there.

    Attributes:
        tokenizer: the repository's tokenizer.
        image_processor: Qwen2-VL's, in its Pillow and NumPy form.
    """

    def __init__(self, snapshot: Path) -> None:
        from transformers import PreTrainedTokenizerFast

        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(snapshot)
        self.image_processor = _image_processor_class().from_pretrained(snapshot)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The model's inputs, on the CPU, of one sample of `drive.synthetic_drive`.

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
        """The texts of a generated answer: `cot` (which the prompt opened), `meta_action` and `answer`.

        A section that was never closed is empty.
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
    """The one without torchvision: transformers 5 keeps it in a module of its own, 4.57 has only that."""
    package = "transformers.models.qwen2_vl"
    try:
        return importlib.import_module(f"{package}.image_processing_pil_qwen2_vl").Qwen2VLImageProcessorPil
    except ModuleNotFoundError:
        return importlib.import_module(f"{package}.image_processing_qwen2_vl").Qwen2VLImageProcessor
