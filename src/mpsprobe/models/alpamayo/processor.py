"""Make Qwen3-VL's processor without the Hub, and without its video processor, which needs torchvision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.models.alpamayo import published, vocabulary

if TYPE_CHECKING:
    from transformers import ProcessorMixin

#: The name by which `AutoProcessor` finds the class below, which must not be one of transformers' own.
_CLASS = "MpsprobeQwen3VLImagesProcessor"

#: A template with the same result for texts and images as the published one of Qwen3-VL.
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_TOKENIZER = {
    "tokenizer_class": "Qwen2TokenizerFast",
    "processor_class": _CLASS,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 262_144,
    # Without it transformers reads all of tokenizer.json again in Python for these 26 tokens, in 0.1 s
    "added_tokens_decoder": {
        str(vocabulary.TEXT_TOKENS + index): {"content": name, **form}
        for index, (name, form) in enumerate(vocabulary.added_tokens().items())
    },
}
_IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": _CLASS,
    "min_pixels": published.MIN_PIXELS,
    "max_pixels": published.MAX_PIXELS,
    "patch_size": 16,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


#: A file that marks a tokenizer that was made here.
STAND_IN = "STAND-IN.txt"


def write(folder: Path) -> None:
    """Write such a tokenizer and an image processor into `folder`."""
    vocabulary.build_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    (folder / STAND_IN).write_text(f"{vocabulary.__doc__}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER, indent=2) + "\n", encoding="utf-8")
    write_settings(folder)


def write_settings(folder: Path) -> None:
    """Write the configs of the processor, which takes images only; files of a tokenizer are left as they are."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = _IMAGES if name.startswith("pre") else {"processor_class": _CLASS}
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def register() -> None:
    """Make `AutoProcessor` find the class that `write` names in its files."""
    from transformers import AutoProcessor

    AutoProcessor.register(*_registered(), exist_ok=True)


@cache
def _registered() -> tuple[type[Any], type[ProcessorMixin]]:
    """Return a config and the processor class to register for it."""
    from transformers import PretrainedConfig

    class NoModel(PretrainedConfig):
        """A config without a model, because the processor is found by name and not by config."""

        model_type = "mpsprobe_no_model"

    return NoModel, _processor_class()


def _processor_class() -> type[ProcessorMixin]:
    from transformers import ProcessorMixin, Qwen3VLProcessor

    class MpsprobeQwen3VLImagesProcessor(Qwen3VLProcessor):  # type: ignore[misc, unused-ignore]
        attributes = ("image_processor", "tokenizer")  # type: ignore[assignment, unused-ignore]

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            chat_template: str | None = None,
            **_: Any,
        ) -> None:
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            self.vision_start_token, self.vision_end_token = "<|vision_start|>", "<|vision_end|>"

        def __repr__(self) -> str:
            """Return only the class name, because transformers formats the object for a log line at each load."""
            return f"{_CLASS}()"

    return MpsprobeQwen3VLImagesProcessor


class Once:
    """A replacement of `AutoProcessor` for the package's code, which makes the processor of a folder once.

    That code makes the same processor for each config and each model (0.25 s, mostly for the tokenizer's 151,669
    words), and adds its tokens to it, which has no effect the second time.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, frozenset[tuple[str, Any]]], Any] = {}

    def made(self, folder: Path, **options: Any) -> Any:
        """Return the processor that was made with these options; None when there is none."""
        return self._made.get((str(folder), frozenset(options.items())))

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Return a processor as `AutoProcessor.from_pretrained` does."""
        from transformers import AutoProcessor

        key = (folder, frozenset(options.items()))
        if key not in self._made:
            self._made[key] = AutoProcessor.from_pretrained(folder, **options)
        return self._made[key]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Replace `AutoProcessor` in the package's code while the context lasts."""
        module = published.imported("models.base_model")
        before, module.AutoProcessor = module.AutoProcessor, self
        try:
            yield
        finally:
            module.AutoProcessor = before


@contextmanager
def one_image_for_all(image_processor: Any) -> Iterator[None]:
    """Make an image processor process only its first image, and give the others the same shape without values.

    This is for a batch that is not computed with: sixteen images of 320 x 576 take 0.15 s and their patches
    70 MB.
    """
    import torch

    whole = image_processor.preprocess

    def preprocess(images: Any, *args: Any, **kwargs: Any) -> Any:
        every = [image for group in images for image in (group if isinstance(group, list) else [group])]
        made = whole(every[:1], *args, **kwargs)
        patches, width = made["pixel_values"].shape
        made["pixel_values"] = torch.zeros(
            len(every) * patches, width
        )  # pages of zeros take no memory until they are written
        made["image_grid_thw"] = made["image_grid_thw"].repeat(len(every), 1)
        return made

    image_processor.preprocess = preprocess
    try:
        yield
    finally:
        del image_processor.preprocess
