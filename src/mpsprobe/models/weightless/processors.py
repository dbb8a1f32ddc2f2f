"""Make inputs with a folder's own tokenizer, image processor or feature extractor."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from mpsprobe.errors import first_line
from mpsprobe.models.weightless.families import GENERATE, Family

_TEXTS = (
    "The capital of France is Paris, and the capital of Italy is",
    "A shorter text.",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model")
_SIDE = 224
_SECONDS = 1


class Processors:
    """The tokenizer and processors of a folder, which make inputs for its model.

    Args:
        folder: The folder of the model.
        model_class: The class of the model.
        family: The family of the model.
        notes: A list to which a sentence is appended for each processor that was used, or that exists but fails.
    """

    def __init__(self, folder: Path, model_class: type, family: Family, notes: list[str]) -> None:
        self._folder = folder
        self._notes = notes
        self._family = family
        forward: Any = getattr(model_class, "forward")  # noqa: B009
        self._accepted = set(inspect.signature(forward).parameters)

    def batch(self) -> dict[str, Any] | None:
        """Return arguments for the model; None when the folder lacks a needed processor, or one of them fails."""
        wants_text = "input_ids" in self._family.feeds and "input_ids" in self._accepted
        wants_image = "pixel_values" in self._family.feeds and "pixel_values" in self._accepted
        wants_sound = bool({"input_features", "input_values"} & set(self._family.feeds))
        try:
            if wants_text and wants_image and self._family.runs == GENERATE:
                return self._image_and_text()
            batch: dict[str, Any] = {}
            for wanted, part in (
                (wants_text, self._text),
                (wants_image, self._image),
                (wants_sound, self._sound),
            ):
                if wanted:
                    made = part()
                    if made is None:
                        return None
                    batch |= made
        # a processor, old or new, may raise anything; made-up input then replaces it
        except Exception as problem:
            reason = first_line(problem)
            self._notes.append(f"The folder's processor is not used: {type(problem).__name__}: {reason}")
            return None
        return {name: value for name, value in batch.items() if name in self._accepted} or None

    def _has(self, *names: str) -> bool:
        return any((self._folder / name).is_file() for name in names)

    def _text(self) -> dict[str, Any] | None:
        if not self._has(*_TOKENIZER_FILES):
            return None
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._folder, **_LOCAL)
        self._notes.append("The text is made with the folder's tokenizer.")
        if self._family.rows > 1:
            return dict(tokenizer(list(_TEXTS), padding=True, return_tensors="pt"))
        text: Any = _TEXTS[0]
        if self._family.runs == GENERATE and tokenizer.chat_template:
            turn = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            return dict(tokenizer(text, return_tensors="pt", add_special_tokens=False))
        return dict(tokenizer(text, return_tensors="pt"))

    def _image(self) -> dict[str, Any] | None:
        if not self._has("preprocessor_config.json"):
            return None
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(self._folder, **_slow(), **_LOCAL)
        self._notes.append(f"The image, {_SIDE} x {_SIDE} pixels, goes through the folder's image processor.")
        return dict(processor(images=[_image()] * self._family.rows, return_tensors="pt"))

    def _sound(self) -> dict[str, Any] | None:
        if not self._has("preprocessor_config.json"):
            return None
        from transformers import AutoFeatureExtractor

        extractor = AutoFeatureExtractor.from_pretrained(self._folder, **_LOCAL)
        rate = int(extractor.sampling_rate)
        self._notes.append(f"{_SECONDS} s of sound at {rate} Hz goes through the folder's feature extractor.")
        wave = torch.linspace(-1, 1, rate * _SECONDS).numpy()
        return dict(extractor(wave, sampling_rate=rate, return_tensors="pt"))

    def _image_and_text(self) -> dict[str, Any] | None:
        if not self._has("preprocessor_config.json") or not self._has(*_TOKENIZER_FILES):
            return None
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(self._folder, **_LOCAL)
        content = [{"type": "image"}, {"type": "text", "text": _TEXTS[0]}]
        if getattr(processor, "chat_template", None):
            turn = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True)
        else:
            text = f"{getattr(processor, 'image_token', '')}{_TEXTS[0]}"
        self._notes.append("One image and a text go through the folder's processor.")
        batch = dict(processor(images=[_image()], text=[text], return_tensors="pt"))
        return {name: value for name, value in batch.items() if name not in ("token_type_ids",)} | {
            name: batch[name] for name in ("token_type_ids",) if name in batch and name in self._accepted
        }


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _slow() -> dict[str, Any]:
    """Return the options with which transformers chooses an image processor that needs no torchvision."""
    from packaging.version import Version
    from transformers import __version__

    # from transformers 5 on, image processors are chosen by `backend`, not by `use_fast`
    return {"backend": "pil"} if Version(__version__) >= Version("5.0.0.dev0") else {"use_fast": False}


def _image() -> Any:
    """Return a test image as an array `(224, 224, 3)` of uint8: ramps down, across, and of their difference."""
    ramp = torch.linspace(0, 255, _SIDE)
    down, across = torch.meshgrid(ramp, ramp, indexing="ij")
    return torch.stack([down, across, (down - across).abs()], dim=-1).to(torch.uint8).numpy()
