"""Make Qwen3-VL's tokenizer and processor without the Hub, and without its video processor, which needs torchvision.

The tokenizer is a byte-level BPE over 151,643 text tokens, followed by Qwen's 26 added ones under their own ids. Its
words are those of the driving prompt and of a driving trace, each of them one token; any other text falls back to
bytes. The remaining ids are fillers to which no text is encoded. So lengths and special ids are right, but text ids
are not.
Nothing imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.models.alpamayo import published
from mpsprobe.models.tiny_drive.repository import bytes_as_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer  # type: ignore[import-untyped, unused-ignore]
    from transformers import ProcessorMixin


#: The number of text tokens in Qwen2's and Qwen3's vocabulary, which is the id of the first special token.
TEXT_TOKENS = 151_643
#: Qwen3's added tokens in the order of their ids (tokenizer_config.json of Qwen3-VL).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
#: The added tokens that are ordinary text to a decoder (`"special": false`).
_PLAIN = frozenset(SPECIAL_TOKENS[14:])

#: The pattern by which Qwen splits text before merging (tokenizer.json of Qwen2 and Qwen3).
_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Words of the prompt, of the chat template and of a trace, with the space before them as `_`. Those with a space come
#: first, because earlier merges take precedence: "us" of "user" would otherwise split "_because".
WORDS = """
    _are _a _driving _assistant _that _generates _safe _and _accurate _actions _the _chain _reasoning _of _process
    _then _output _future _trajectory _down _because _lead _vehicle _is _braking _ahead _keep _gap _to _it
    system user assistant You output -of -th ought Slow
"""


def _text_tokens() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the text tokens' ids, and the merges, which build a word from the left, one character at a time."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS.replace("_", "Ġ").split():
        token = word[0]
        for character in word[1:]:
            merges.setdefault((token, character))
            token += character
    tokens = [*bytes_as_characters(), *dict.fromkeys(left + right for left, right in merges)]
    # characters outside the byte alphabet, to which no text is encoded
    tokens += [f"\u2400{index}" for index in range(TEXT_TOKENS - len(tokens))]
    return {token: index for index, token in enumerate(tokens)}, list(merges)


def build_tokenizer() -> Tokenizer:
    """Build the byte-level BPE tokenizer that `write` saves as `tokenizer.json`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary, merges = _text_tokens()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for name, form in added_tokens().items():
        token = AddedToken(name, **form)
        (tokenizer.add_special_tokens if form["special"] else tokenizer.add_tokens)([token])
    return tokenizer


def added_tokens() -> dict[str, dict[str, bool]]:
    """Return the fields of an `AddedToken` for each token of `SPECIAL_TOKENS`, in the order of their ids."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {name: {**plain, "special": name not in _PLAIN} for name in SPECIAL_TOKENS}


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
        str(TEXT_TOKENS + index): {"content": name, **form}
        for index, (name, form) in enumerate(added_tokens().items())
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
    """Write the substitute tokenizer, its chat template and the processor's configs into `folder`."""
    build_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    (folder / STAND_IN).write_text(f"{__doc__}", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER, indent=2) + "\n", encoding="utf-8")
    write_settings(folder)


def write_settings(folder: Path) -> None:
    """Write the configs of a processor for images only; the files of a tokenizer stay as they are."""
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
            """Return only the class name, because transformers writes the object to its log at each load."""
            return f"{_CLASS}()"

    return MpsprobeQwen3VLImagesProcessor


class Once:
    """A replacement for `AutoProcessor` in the package's code, which makes equal processors only once.

    That code makes the same processor for each config and each model (0.25 s, mostly for the tokenizer's 151,669
    words), and adds its tokens to it, which has no effect the second time.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[str, frozenset[tuple[str, Any]]], Any] = {}

    def made(self, folder: Path, **options: Any) -> Any:
        """Return the processor that was made of this folder with these options; None when there is none."""
        return self._made.get((str(folder), frozenset(options.items())))

    def from_pretrained(self, folder: str, **options: Any) -> Any:
        """Return what `AutoProcessor.from_pretrained` makes, which is kept for later calls with the same arguments."""
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
    """Make an image processor process only its first image; the others get zeros of the same shape.

    This is for batches whose values are never used: processing sixteen images of 320 x 576 takes 0.15 s, and their
    patches 70 MB.
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
