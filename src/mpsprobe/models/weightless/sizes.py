"""Resize a made-up input as the user requests: longer prompts, more rows, larger pictures, more sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import UsageError
from mpsprobe.run.outlook import Fed, Workload

#: Arguments with a column for each token of the text.
_TEXT = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "position_ids",
    "bbox",
    "inputs",
)
_PIXELS = ("pixel_values", "pixel_mask")
_SAMPLING_RATE, _FRAME_RATE = 16_000, 100
#: The frames of the spectrogram of Whisper's window, and the length of the window in seconds.
_WINDOW, _WINDOW_SECONDS = 3000, 30


def sized(batch: Mapping[str, Any], wanted: Workload) -> tuple[dict[str, Any], list[str]]:
    """Return the input at the requested size, and a list of sentences about what was done.

    Args:
        batch: The input.
        wanted: The requested sizes; those that are None leave the input as it is.

    Raises:
        UsageError: The target has no such input, or cannot take it at that size.
    """
    made, notes = dict(batch), list[str]()
    if wanted.batch is not None or wanted.prompt_tokens is not None:
        made = _first_text(made)
    if wanted.prompt_tokens is not None:
        made = _prompt(made, wanted.prompt_tokens)
    if wanted.image_size is not None:
        made = _pictures(made, wanted.image_size)
    if wanted.frames is not None:
        made = _frames(made, wanted.frames)
    if wanted.audio_seconds is not None:
        made = _sound(made, wanted.audio_seconds, notes)
    if wanted.batch is not None and wanted.batch > 1:
        made = {
            name: torch.cat([value] * wanted.batch) if _rows(value) else value for name, value in made.items()
        }
    return made, notes


def fed(batch: Mapping[str, Any]) -> Fed:
    """Return the sizes of an input that its tensors' names and shapes show; zero or empty for others."""
    tokens, seconds, rows = 0, 0.0, 0
    image: tuple[int, ...] = ()
    for name, value in batch.items():
        if not isinstance(value, Tensor) or not value.ndim:
            continue
        if name in ("input_ids", "inputs", "idx", "tokens") and value.ndim >= 2:
            tokens, rows = value.shape[1], value.shape[0]
        elif name == "input_values" and value.shape[-1] >= _SAMPLING_RATE // 4:
            seconds = value.shape[-1] / _SAMPLING_RATE
        elif name == "input_features" and value.ndim == 3:
            frames = max(value.shape[1:]) if value.shape[-1] == _WINDOW else value.shape[1]
            seconds = frames / _FRAME_RATE
        elif name in ("pixel_values", "images", "image") and value.ndim >= 4:
            image = tuple(value.shape[-2:])
    first = next((value for value in batch.values() if isinstance(value, Tensor) and value.ndim > 1), None)
    return Fed(
        rows=rows or (first.shape[0] if first is not None else 1),
        tokens=tokens,
        audio_seconds=seconds,
        image=image,
    )


def _rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _first_text(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch with only the first row of every tensor with a row for each text."""
    ids = next((batch[name] for name in ("input_ids", "inputs") if _rows(batch.get(name))), None)
    if ids is None or ids.shape[0] == 1:
        return batch
    rows = ids.shape[0]
    return {
        name: value[:1] if _rows(value) and value.shape[0] == rows else value for name, value in batch.items()
    }


def _prompt(batch: dict[str, Any], length: int) -> dict[str, Any]:
    ids = next((batch[name] for name in ("input_ids", "inputs") if _rows(batch.get(name))), None)
    if ids is None or ids.ndim < 2:
        raise UsageError("--prompt-tokens: this target takes no text.")
    before = ids.shape[1]
    if length < before and any(name.startswith("pixel_values") for name in batch):
        raise UsageError(
            f"--prompt-tokens {length}: its picture and the text around it take {before} tokens.",
            f"Give {before} or more.",
        )
    made = {}
    for name, value in batch.items():
        if not (name in _TEXT and _rows(value) and value.ndim >= 2 and value.shape[1] == before):
            made[name] = value
        elif length <= before:
            made[name] = value[:, :length].contiguous()
        else:
            end = value[:, -min(8, before) :] if name in ("input_ids", "inputs") else value[:, -1:]
            times = -(-(length - before) // end.shape[1])
            more = torch.cat([end] * times, dim=1)[:, : length - before]
            made[name] = torch.cat([value, more], dim=1)
    return made


def _pictures(batch: dict[str, Any], size: int) -> dict[str, Any]:
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, Tensor):
        raise UsageError("--image-size: this target takes no picture.")
    if pixels.ndim != 4 or pixels.shape[1] > 4:
        raise UsageError(
            "--image-size: this model's processor cuts pictures into tiles or patches of its own.",
            "Its size is fixed by the processor's files.",
        )
    made = dict(batch)
    for name in _PIXELS:
        value = batch.get(name)
        if isinstance(value, Tensor):
            planes = value if value.ndim == 4 else value[:, None].float()
            resized = torch.nn.functional.interpolate(planes.float(), size=(size, size)).to(value.dtype)
            made[name] = resized if value.ndim == 4 else resized[:, 0]
    return made


def _frames(batch: dict[str, Any], frames: int) -> dict[str, Any]:
    for name in ("pixel_values_videos", "pixel_values"):
        value = batch.get(name)
        if isinstance(value, Tensor) and value.ndim == 5:
            times = -(-frames // value.shape[1])
            return {**batch, name: torch.cat([value] * times, dim=1)[:, :frames].contiguous()}
    raise UsageError("--frames: this target takes no video of separate frames.")


def _sound(batch: dict[str, Any], seconds: int, notes: list[str]) -> dict[str, Any]:
    wave, features = batch.get("input_values"), batch.get("input_features")
    if isinstance(wave, Tensor):
        length = seconds * _SAMPLING_RATE
        times = -(-length // wave.shape[-1])
        return {**batch, "input_values": torch.cat([wave] * times, dim=-1)[..., :length].contiguous()}
    if isinstance(features, Tensor) and features.ndim == 3:
        if features.shape[-1] == _WINDOW:
            windows = -(-seconds // _WINDOW_SECONDS)
            notes.append(f"{seconds} s of sound are {windows} windows of {_WINDOW_SECONDS} s, run at once.")
            return {
                name: torch.cat([value] * windows) if _rows(value) else value for name, value in batch.items()
            }
        length = seconds * _FRAME_RATE
        times = -(-length // features.shape[1])
        return {**batch, "input_features": torch.cat([features] * times, dim=1)[:, :length].contiguous()}
    raise UsageError("--audio-seconds: this target takes no sound.")
