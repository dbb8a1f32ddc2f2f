"""Make inputs for a transformers model from its config and the signature of its forward pass."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import MpsprobeError, TargetError, first_line
from mpsprobe.models.weightless import guessed, synthetic_images
from mpsprobe.models.weightless.families import GENERATE, VIDEO, Family
from mpsprobe.models.weightless.synthetic_signals import SAMPLING_RATE, SeriesInputs, SoundInputs, ramp

#: The number of tokens of a made-up prompt, and of the second, padded one.
PROMPT, SHORTER = 32, 20


class Inputs(SoundInputs, SeriesInputs):
    """Make the arguments of a transformers model's forward pass, one method for each name.

    Attributes:
        model_class: A class of transformers.
        config: Its config.
        family: Its family, which determines its inputs.
        dtype: The dtype of floating-point arguments.
        target: The target as the user named it, for the advice in an error.
        notes: Sentences about assumptions that were made for the user.
    """

    def __init__(
        self, model_class: type, config: Any, family: Family, dtype: torch.dtype, target: str = "MODEL"
    ) -> None:
        self.target = target
        self.model_class = model_class
        self.config = config
        self.family = family
        self.dtype = dtype
        self.notes: list[str] = []
        forward: Any = getattr(model_class, "forward")  # noqa: B009 (mypy: type[Any] has no forward)
        self._parameters = inspect.signature(forward).parameters

    def make(self) -> dict[str, Any]:
        """Make the arguments of `forward` or `generate` on the CPU, floating-point ones in the model's dtype.

        Raises:
            TargetError: The model requires an argument that cannot be made up, or its config holds a value from
                which no input can be made (`"vocab_size": {}`).
        """
        batch = {name: self._one(name) for name in self.names()}
        return {
            name: value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
            if value is not None
        }

    def names(self) -> list[str]:
        """Return the names of the arguments to make, in the order of the signature."""
        main = getattr(self.model_class, "main_input_name", None)
        taken = {name for name in self.family.feeds if name in self._parameters}
        if isinstance(main, str) and main in self._parameters:
            taken.add(main)
        # an encoder-decoder starts decoding by itself when it generates
        decodes = self.family.runs != GENERATE and self._config("is_encoder_decoder", False)
        if decodes and "input_ids" in taken and "decoder_input_ids" in self._parameters:
            taken.add("decoder_input_ids")
        required = [
            name
            for name, parameter in self._parameters.items()
            if parameter.default is inspect.Parameter.empty
            and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name != "self"
        ]
        if main == "inputs" and taken & {
            "input_values",
            "input_features",
        }:  # SpeechEncoderDecoder takes one of them
            taken.discard("inputs")
            main = "input_values" if "input_values" in taken else "input_features"
        if "inputs" in (*required, main):  # Perceiver takes either name
            taken.discard("input_ids")
        if main in ("input_values", "input_features"):  # a class may accept both, but needs one
            taken -= {"input_values", "input_features"} - {main}
        if "high_res_pixel_values" in self._parameters and "pixel_values" in taken:
            taken.add("high_res_pixel_values")
        if "visual_feats" in self._parameters:  # LXMERT requires it
            taken |= {"visual_feats", "visual_pos"}
        if "pixel_values" in taken and main == "pixel_values_videos":
            taken.discard("pixel_values")
        for (
            leader,
            followers,
        ) in _FOLLOWERS.items():  # all are optional, but the code needs them with the first
            if leader in (*taken, *required):
                taken |= followers & self._parameters.keys()
        return [name for name in self._parameters if name in taken or name in required]

    def _one(self, name: str) -> Any:
        try:
            return self._make_one(name)
        except MpsprobeError:
            raise
        except Exception as problem:  # a config may hold anything
            raise TargetError(
                f"{self.model_class.__name__}: no `{name}` can be made from its config: "
                f"{type(problem).__name__}: {first_line(problem)}.",
                "Check the sizes in its config.json, or write a target.py that feeds it (docs/targets.md).",
            ) from problem

    def _make_one(self, name: str) -> Any:
        maker = _MAKERS.get(name)
        if maker is not None:
            return maker(self)
        made = self._described(name)
        if made is None:
            raise TargetError(
                f"{self.model_class.__name__} needs `{name}`, which cannot be made up from its config.",
                f"Write a target.py that gives it: mpsprobe target new {self.target}",
            )
        self.notes.append(f"{name} has the shape of its description in the docstring of forward.")
        return made

    def _described(self, name: str) -> Tensor | None:
        """Return a tensor of the shape that the docstring of forward states; None where it states none that is known.

        Masks are ones, ids and lengths zeros, and other values rise from -1 to 1.
        """
        shape, dtype = guessed.documented(self.model_class, name)
        sizes = [self._axis(axis) for axis in shape]
        if not sizes or None in sizes:
            return None
        whole = [size for size in sizes if size is not None]
        if "mask" in name:
            return torch.ones(whole, dtype=torch.int64 if dtype == "LongTensor" else torch.bool)
        if dtype in ("LongTensor", "IntTensor") or name.endswith(("_ids", "_lens", "_lengths")):
            return torch.zeros(whole, dtype=torch.int64)
        return torch.ones(whole, dtype=torch.bool) if dtype == "BoolTensor" else ramp(*whole)

    def _axis(self, axis: str) -> int | None:
        """Return the size of an axis by its name: a number, a usual name, or a field of the config; else None."""
        if axis.isdigit():
            return int(axis)
        height, width = synthetic_images.image_size(self.config)
        usual = {
            "batch_size": self.family.rows,
            "batch": self.family.rows,
            "sequence_length": self._length(PROMPT),
            "seq_len": self._length(PROMPT),
            "seq_length": self._length(PROMPT),
            "target_sequence_length": self._length(PROMPT),
            "text_sequence_length": self._length(PROMPT),
            "num_channels": synthetic_images.channels(self.config),
            "channels": synthetic_images.channels(self.config),
            "height": height,
            "width": width,
            "image_size": height,
            "num_images": 1,
            "num_frames": _FRAMES,
            "frames": _FRAMES,
            "feature_size": self._sound("num_mel_bins", "input_dim", "feature_size"),
            "time_steps": SAMPLING_RATE,
            "num_samples": SAMPLING_RATE,
            "raw_sequence_length": SAMPLING_RATE,
            "embed_dim": self._config("hidden_size"),
        }
        found = usual.get(axis) or self._config(axis.removeprefix("config."))
        return found if isinstance(found, int) and found > 0 else None

    # ---------------------------------------------------------------------------------------------- config

    def _config(self, name: str, default: Any = None) -> Any:
        """Return a value of the config or of its part for text; `default` where both lack it."""
        value = getattr(self.config, name, None)
        if value is None:
            text = synthetic_images.text_part(self.config)
            value = getattr(text, name, None)
        return default if value is None else value

    # ------------------------------------------------------------------------------------------------ text

    def input_ids(self) -> Tensor:
        """Return `(rows, tokens)` int64: ordinary tokens, an image's placeholders if needed; a second row is padded."""
        ids = self._ordinary(self._length(PROMPT))
        if "pixel_values" in self._parameters and self.family.runs == GENERATE:
            ids = synthetic_images.with_placeholders(self.config, ids, self._image_features, self.notes)
        if self.family.rows == 1:
            return torch.tensor([ids])
        pad, kept = self._config("pad_token_id", 0), self._length(SHORTER)
        return torch.tensor([ids, ids[:kept] + [pad] * (len(ids) - kept)])

    @functools.cached_property
    def _image_features(self) -> int | None:
        """Return the number of features that the model makes of the image; None when they cannot be counted."""
        text = {
            "input_ids",
            "attention_mask",
            "bbox",
            "cross_attention_mask",
            "mm_token_type_ids",
            "image_attention_mask",
        }
        made = {name: self._make_one(name) for name in self.names() if name not in text}
        return synthetic_images.count_features(
            self.model_class, self.config, {name: value for name, value in made.items() if value is not None}
        )

    def attention_mask(self) -> Tensor | None:
        """Return ones for tokens or states, and zeros where a second text is padded; None without either."""
        if "states" in self.names():  # Decision Transformer makes a missing mask on the CPU
            return torch.ones(self.states().shape[:2], dtype=torch.int64)
        if "input_ids" not in self.names():
            return None
        mask = torch.ones_like(self.input_ids())
        mask[1:, self._length(SHORTER) :] = 0
        return mask

    def mm_token_type_ids(self) -> Tensor | None:
        """Return 1 for the image's placeholders and 0 for text, as transformers 5 requires; None without images."""
        token = synthetic_images.image_token(self.config)
        return None if token is None else (self.input_ids() == token).to(torch.int64)

    def decoder_input_ids(self) -> Tensor:
        start = self._config("decoder_start_token_id", self._config("bos_token_id", 0))
        books = getattr(
            getattr(self.config, "decoder", self.config), "num_codebooks", 1
        )  # MusicGen: a row for each
        return torch.full((self.family.rows * books, 1), start)

    def bbox(self) -> Tensor:
        """Return the same box for each token, in LayoutLM's coordinates of 0 to 1000: `(rows, tokens, 4)`."""
        ids = self.input_ids()
        return torch.tensor([100, 200, 300, 400]).expand(*ids.shape, 4).contiguous()

    def _length(self, wanted: int) -> int:
        """Return `wanted`, but at most two fewer than the model has positions (RoBERTa's begin at the third)."""
        positions = self._config("max_position_embeddings")
        return min(wanted, positions - 2) if isinstance(positions, int) and positions > 2 else wanted

    def _ordinary(self, length: int) -> list[int]:
        """Return ascending token ids from a quarter of the vocabulary on, without special tokens, repeated if too few.

        Raises:
            TargetError: The config states no size of a vocabulary.
        """
        # CANINE has no vocabulary; it hashes code points to buckets
        names = ("vocab_size", "text_encoder_vocab_size", "num_hash_buckets")
        vocabulary = next((int(size) for name in names if (size := self._config(name))), 0)
        if vocabulary < 2:
            parts = [part for part in vars(self.config).values() if hasattr(part, "model_type")]
            sizes = (getattr(part, "vocab_size", None) for part in parts)
            vocabulary = next((size for size in sizes if isinstance(size, int)), 0)
        if vocabulary < 2:
            raise TargetError(
                f"{self.model_class.__name__}: its config states no vocab_size.", "Add a tokenizer's folder."
            )
        special = synthetic_images.special_ids(self.config)
        ids = [token for token in range(vocabulary // 4, vocabulary) if token not in special][:length]
        return (ids * length)[:length] if ids else [0] * length

    def qformer_input_ids(self) -> Tensor:
        """Return token ids for InstructBLIP's querying transformer: `(1, 20)` int64."""
        return torch.tensor([list(range(1000, 1000 + SHORTER))])

    def inputs(self) -> Tensor:
        """Return token ids under the name of Perceiver's main input: `(rows, tokens)`."""
        return self.input_ids()

    # ---------------------------------------------------------------------------------------------- images

    def pixel_values(self) -> Tensor:
        if re.search(r"LightGlue|SuperGlue|LoFTR", self.model_class.__name__):  # they match two images
            pixels = synthetic_images.pixels(self.config, self._parameters, 1, self.notes)
            return torch.stack([pixels, pixels.flip(-1)], dim=1)
        if self.model_class.__name__ == "XCLIPVisionModel":  # the frames of a video are its rows
            return self.pixel_values_videos()[0]
        frames = re.search(r"XCLIP|BlipVideo", self.model_class.__name__)  # TVLT takes frames and sound
        if self.family.name == VIDEO or frames or "audio_values" in self._parameters:
            return self.pixel_values_videos().expand(self.family.rows, -1, -1, -1, -1)
        if "image_attention_mask" in self._parameters:  # Idefics: `(1, images, channels, height, width)`
            return synthetic_images.pixels(self.config, self._parameters, 1, self.notes)[:, None]
        return synthetic_images.pixels(self.config, self._parameters, self.family.rows, self.notes)

    def pixel_values_videos(self) -> Tensor:
        """Return the pixel values of a video: `(1, frames, channels, height, width)`."""
        return synthetic_images.video(self.config, self.notes)

    def image_attention_mask(self) -> Tensor:
        """Return a mask with which every token sees the one image: `(1, tokens, 1)`."""
        return torch.ones(1, self.input_ids().shape[1], 1, dtype=torch.int64)

    def pixel_mask(self) -> Tensor:
        pixels = self.pixel_values()
        if pixels.dim() == 5:  # TVLT: `(rows, patches of all frames)`
            side = synthetic_images.vision_part(self.config).image_patch_size[0]
            patches = pixels.shape[1] * (pixels.shape[-2] // side) * (pixels.shape[-1] // side)
            return torch.ones(pixels.shape[0], patches, dtype=torch.int64)
        return torch.ones(pixels.shape[0], *pixels.shape[-2:], dtype=torch.int64)

    def image_grid_thw(self) -> Tensor | None:
        return synthetic_images.grid(self.config)

    def merge_sizes(self) -> Tensor:
        """Return the number of patches that VideoLLaMA 3 merges along a side, which is 1, for one image: `(1,)`."""
        return torch.ones(1, dtype=torch.int64)

    def hidden_states(self) -> Tensor | None:
        """Return an image's patches for vision towers as in Qwen-VL, else a tensor as the docstring describes it.

        Without such a description it is `(1, tokens, width)`; None where the config states no width.
        """
        if {"grid_thw", "image_grid_thw"} & self._parameters.keys():
            return synthetic_images.pixels(self.config, ("image_grid_thw",), 1, self.notes)
        made = self._described("hidden_states")
        width = self._config("input_dim") or self._config("hidden_size")
        return made if made is not None or width is None else ramp(1, self._length(PROMPT), width)

    def encoder_hidden_states(self) -> Tensor:
        """Return the output of an image encoder for a Q-Former: `(rows, 257, width)`."""
        width = self._config("encoder_hidden_size") or self._config("cross_attention_hidden_size")
        return ramp(self.family.rows, 257, width or self._config("hidden_size", 768))

    def pixel_position_ids(self) -> Tensor | None:
        """Return column and row of each patch: `(1, patches, 2)`; None where images are not given as patches."""
        pixels = self.pixel_values()
        if pixels.dim() != 3:
            return None
        side = math.isqrt(pixels.shape[1])
        place = torch.arange(pixels.shape[1])
        return torch.stack([place % max(1, side), place // max(1, side)], dim=-1)[None]

    def image_sizes(self) -> Tensor | None:
        """Return the image's height and width, `(1, 2)`, for models that tile it or keep its size (Pixtral).

        None for other models.
        """
        whole = synthetic_images.tiled_size(self.config)
        if whole is not None:
            return torch.tensor([whole])
        if getattr(synthetic_images.vision_part(self.config), "model_type", "") != "pixtral":
            return None
        return torch.tensor([synthetic_images.image_size(self.config)])

    def pixel_attention_mask(self) -> Tensor | None:
        pixels = self.pixel_values()
        if pixels.dim() == 5:  # (1, images, channels, height, width)
            return torch.ones(*pixels.shape[:2], *pixels.shape[-2:], dtype=torch.bool)
        if pixels.dim() == 3:  # (rows, patches, width)
            return torch.ones(pixels.shape[:2], dtype=torch.int64)
        return None

    def spatial_shapes(self) -> Tensor:
        return synthetic_images.spatial_shapes(self.family.rows)

    def aspect_ratio_ids(self) -> Tensor:
        """Return the id of an aspect ratio of one tile, for one text with one image: `(1, 1)` int64, which is 1."""
        return torch.ones(1, 1, dtype=torch.int64)

    def aspect_ratio_mask(self) -> Tensor:
        mask = torch.zeros(1, 1, synthetic_images.tiles(self.config), dtype=torch.int64)
        mask[..., 0] = 1
        return mask

    def cross_attention_mask(self) -> Tensor | None:
        """Return a mask with which every token sees the one tile: `(1, tokens, 1, tiles)`; None without tiles."""
        if "aspect_ratio_ids" not in self._parameters:
            return None
        tokens = self.input_ids().shape[1]
        return self.aspect_ratio_mask()[:, None].expand(1, tokens, 1, -1).contiguous()

    def flattened_patches(self) -> Tensor:
        """Return Pix2Struct's 8 x 8 patches, each preceded by its row and column: `(1, 64, 2 + pixels)`."""
        side = 8
        pixels = synthetic_images.vision_part(self.config).patch_embed_hidden_size
        place = torch.arange(side * side)
        rows_and_columns = torch.stack([place // side + 1, place % side + 1], dim=1).float()
        return torch.cat([rows_and_columns, ramp(side * side, pixels)], dim=1)[None]

    def input_points(self) -> Tensor:
        """Return one point: `(1, 1, 1, 2)`, x and y in pixels."""
        return torch.tensor([[[[10.0, 12.0]]]])

    def input_labels(self) -> Tensor:
        return torch.ones(1, 1, 1, dtype=torch.int64)

    def high_res_pixel_values(self) -> Tensor:
        """Return the image at the size of DeepSeek-VL's second encoder: `(1, 3, side, side)`."""
        part = getattr(self.config, "high_res_vision_config", None)
        side = getattr(part, "image_size", None) or 1024
        return ramp(1, 3, side, side)

    def visual_feats(self) -> Tensor:
        """Return 36 regions of an image, as LXMERT's detector finds them: `(1, 36, features)`."""
        return ramp(self.family.rows, 36, self._config("visual_feat_dim", 2048))

    def visual_pos(self) -> Tensor:
        return ramp(self.family.rows, 36, self._config("visual_pos_dim", 4)).abs()

    def query_embeds(self) -> Tensor:
        """Return queries of a Q-Former: `(1, 32, width)`."""
        return ramp(1, 32, self._config("hidden_size", 768))

    def task_inputs(self) -> Tensor:
        """Return ordinary token ids in place of OneFormer's text on its task: `(1, task_seq_len)`."""
        return torch.tensor([self._ordinary(self._config("task_seq_len", 77))])


#: Optional arguments that are passed together with another one, where a forward pass has them.
_FOLLOWERS = {
    "states": {"actions", "returns_to_go", "timesteps"},
    "input_features": {"is_longer", "input_features_mask"},
    "audio_values": {"audio_mask", "pixel_mask"},
    "pixel_values": {"image_attention_mask", "image_merge_sizes", "image_position_ids", "pixel_position_ids"},
}
#: The number of frames of a video whose config states none.
_FRAMES = 8


def describe(batch: dict[str, Any]) -> list[str]:
    """Describe each tensor of an input, including those in nested dicts: `"input_ids int64[1, 32]"`."""
    texts = []
    for name, value in batch.items():
        if isinstance(value, dict):
            texts += [f"{name}.{one}" for one in describe(value)]
        elif isinstance(value, Tensor):
            shape = ", ".join(map(str, value.shape))
            texts.append(f"{name} {str(value.dtype).removeprefix('torch.')}[{shape}]")
    return texts


_MAKERS: dict[str, Callable[[Inputs], Any]] = {
    "grid_thw": Inputs.image_grid_thw,
    "image_merge_sizes": Inputs.merge_sizes,
    "image_position_ids": Inputs.pixel_position_ids,
    **{
        name: getattr(Inputs, name)
        for name in (
            "input_ids",
            "attention_mask",
            "decoder_input_ids",
            "bbox",
            "input_features",
            "input_values",
            "pixel_values",
            "pixel_values_videos",
            "pixel_mask",
            "image_grid_thw",
            "image_sizes",
            "mm_token_type_ids",
            "pixel_attention_mask",
            "input_points",
            "input_labels",
            "task_inputs",
            "high_res_pixel_values",
            "visual_feats",
            "visual_pos",
            "query_embeds",
            "past_values",
            "past_time_features",
            "past_values_padding",
            "freq",
            "past_observed_mask",
            "states",
            "actions",
            "rewards",
            "returns_to_go",
            "timesteps",
            "audio_values",
            "qformer_input_ids",
            "inputs",
            "decoder_input_values",
            "speaker_embeddings",
            "spatial_shapes",
            "aspect_ratio_ids",
            "aspect_ratio_mask",
            "cross_attention_mask",
            "flattened_patches",
            "input_features_mask",
            "is_longer",
            "audio_mel",
            "audio_mel_mask",
            "hidden_states",
            "encoder_hidden_states",
            "pixel_position_ids",
            "image_attention_mask",
            "audio_mask",
            "merge_sizes",
            "state",
        )
    },
}
