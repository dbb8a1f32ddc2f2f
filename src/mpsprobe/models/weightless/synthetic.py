"""Made-up inputs for a transformers model, from its config and the signature of its forward pass."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import TargetError
from mpsprobe.models.weightless import image_features, synthetic_images
from mpsprobe.models.weightless.families import GENERATE, VIDEO, Family

#: Tokens of a made-up prompt, and of the second, padded one.
PROMPT, SHORTER = 32, 20
#: One second of sound, as every speech model of transformers samples it.
SAMPLING_RATE = 16_000


class Inputs:
    """Makes each argument of a forward pass by its name.

    Attributes:
        notes: what was assumed, one sentence each.
    """

    def __init__(self, model_class: type, config: Any, family: Family, dtype: torch.dtype) -> None:
        self.model_class = model_class
        self.config = config
        self.family = family
        self.dtype = dtype
        self.notes: list[str] = []
        forward: Any = getattr(model_class, "forward")  # noqa: B009 (mypy: type[Any] has no forward)
        self._parameters = inspect.signature(forward).parameters

    def make(self) -> dict[str, Any]:
        """Arguments of `forward` or `generate`, on the CPU, floating-point ones in the model's dtype.

        Raises:
            TargetError: the model requires an argument that cannot be made up.
        """
        batch = {name: self._make_one(name) for name in self.names()}
        return {
            name: value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in batch.items()
            if value is not None
        }

    def names(self) -> list[str]:
        """The arguments to be fed, in the order of the signature."""
        main = getattr(self.model_class, "main_input_name", None)
        taken = {name for name in self.family.feeds if name in self._parameters}
        if isinstance(main, str) and main in self._parameters:
            taken.add(main)
        # an encoder-decoder begins to decode by itself when it generates
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
        if "inputs" in (*required, main):  # Perceiver takes either name
            taken.discard("input_ids")
        if main in ("input_values", "input_features"):  # a class may accept both, and wants one
            taken -= {"input_values", "input_features"} - {main}
        if "high_res_pixel_values" in self._parameters and "pixel_values" in taken:
            taken.add("high_res_pixel_values")
        if "visual_feats" in self._parameters:  # LXMERT refuses to go without
            taken |= {"visual_feats", "visual_pos"}
        if "pixel_values" in taken and main == "pixel_values_videos":
            taken.discard("pixel_values")
        return [name for name in self._parameters if name in taken or name in required]

    def _make_one(self, name: str) -> Any:
        maker = _MAKERS.get(name)
        if maker is None:
            raise TargetError(
                f"{self.model_class.__name__} needs `{name}`, which cannot be made up from its config.",
                "Write a target.py that gives it: mpsprobe target new MODEL",
            )
        return maker(self)

    # ---------------------------------------------------------------------------------------------- config

    def _config(self, name: str, default: Any = None) -> Any:
        """A value of the config, or of the part of it that describes text."""
        value = getattr(self.config, name, None)
        if value is None:
            text = synthetic_images.text_part(self.config)
            value = getattr(text, name, None)
        return default if value is None else value

    # ------------------------------------------------------------------------------------------------ text

    def input_ids(self) -> Tensor:
        """`(rows, tokens)` int64: ordinary tokens, with the placeholders that the images need."""
        ids = self._ordinary(self._length(PROMPT))
        if "pixel_values" in self._parameters and self.family.runs == GENERATE:
            ids = synthetic_images.with_placeholders(self.config, ids, self._image_features, self.notes)
        if self.family.rows == 1:
            return torch.tensor([ids])
        pad, kept = self._config("pad_token_id", 0), self._length(SHORTER)
        return torch.tensor([ids, ids[:kept] + [pad] * (len(ids) - kept)])

    @functools.cached_property
    def _image_features(self) -> int | None:
        """How many features the model makes of the image."""
        text = {"input_ids", "attention_mask", "bbox", "cross_attention_mask", "mm_token_type_ids"}
        made = {name: self._make_one(name) for name in self.names() if name not in text}
        return image_features.count(
            self.model_class, self.config, {name: value for name, value in made.items() if value is not None}
        )

    def attention_mask(self) -> Tensor | None:
        """Ones, and zeros where the second text is padded."""
        if "input_ids" not in self.names():
            return None
        mask = torch.ones_like(self.input_ids())
        mask[1:, self._length(SHORTER) :] = 0
        return mask

    def mm_token_type_ids(self) -> Tensor | None:
        """1 where a token stands for the image, 0 for text: transformers 5 asks for them beside images."""
        token = synthetic_images.image_token(self.config)
        return None if token is None else (self.input_ids() == token).to(torch.int64)

    def decoder_input_ids(self) -> Tensor:
        start = self._config("decoder_start_token_id", self._config("bos_token_id", 0))
        return torch.full((self.family.rows, 1), start)

    def bbox(self) -> Tensor:
        """`(rows, tokens, 4)`: a box of 0 ... 1000 for each token, as LayoutLM's."""
        ids = self.input_ids()
        return torch.tensor([100, 200, 300, 400]).expand(*ids.shape, 4).contiguous()

    def _length(self, wanted: int) -> int:
        """As many tokens as wanted, or as fit; two positions less, since RoBERTa's begin at the third."""
        positions = self._config("max_position_embeddings")
        return min(wanted, positions - 2) if isinstance(positions, int) and positions > 2 else wanted

    def _ordinary(self, length: int) -> list[int]:
        """Tokens in turn from a quarter of the vocabulary on, without those of special meaning."""
        # CANINE has no vocabulary: it reads code points, hashed to buckets
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
        """The text that InstructBLIP's querying transformer reads."""
        return torch.tensor([list(range(1000, 1000 + SHORTER))])

    def inputs(self) -> Tensor:
        """Perceiver's name for what it reads."""
        return self.input_ids()

    # ----------------------------------------------------------------------------------------------- sound

    def input_features(self) -> Tensor:
        """Spectrogram: `(1, mel bins, frames)` as Whisper's, else `(1, frames, features)`."""
        bins = self._config("num_mel_bins")
        positions = self._config("max_source_positions")
        if bins is not None and positions is not None and self._config("input_feat_per_channel") is None:
            return _ramp(1, bins, 2 * positions)
        width = (
            self._config("input_feat_per_channel", 0) * self._config("input_channels", 1)
            or self._config("feature_projection_input_dim")
            or self._config("input_dim")
            or bins
            or 80
        )
        self.notes.append(f"Sound: 200 frames of {width} features.")
        return _ramp(1, 200, width)

    def input_values(self) -> Tensor:
        """A second of waveform `(1, 16000)`, or a spectrogram `(1, frames, bins)` where the config has one."""
        bins, frames = self._config("num_mel_bins"), self._config("max_length")
        if bins is not None and frames is not None and hasattr(self.config, "frequency_stride"):
            return _ramp(1, frames, bins)
        channels = self._config("audio_channels")
        self.notes.append(f"Sound: one second at {SAMPLING_RATE} Hz.")
        return _ramp(1, channels, SAMPLING_RATE) if channels else _ramp(1, SAMPLING_RATE)

    def decoder_input_values(self) -> Tensor | None:
        """Two groups of frames that SpeechT5 has said so far."""
        bins, group = self._config("num_mel_bins"), self._config("reduction_factor", 1)
        return None if bins is None else _ramp(1, 2 * group, bins)

    def speaker_embeddings(self) -> Tensor | None:
        width = self._config("speaker_embedding_dim")
        return _ramp(1, width) if isinstance(width, int) and width > 0 else None

    # ---------------------------------------------------------------------------------------------- images

    def pixel_values(self) -> Tensor:
        if re.search(r"LightGlue|SuperGlue|LoFTR", self.model_class.__name__):  # they match two images
            pixels = synthetic_images.pixels(self.config, self._parameters, 1, self.notes)
            return torch.stack([pixels, pixels.flip(-1)], dim=1)
        if self.family.name == VIDEO:
            return self.pixel_values_videos()
        return synthetic_images.pixels(self.config, self._parameters, self.family.rows, self.notes)

    def pixel_values_videos(self) -> Tensor:
        """`(1, frames, channels, height, width)`."""
        return synthetic_images.video(self.config, self.notes)

    def pixel_mask(self) -> Tensor:
        pixels = self.pixel_values()
        return torch.ones(pixels.shape[0], *pixels.shape[-2:], dtype=torch.int64)

    def image_grid_thw(self) -> Tensor | None:
        return synthetic_images.grid(self.config)

    def image_sizes(self) -> Tensor | None:
        """Height and width of each image: of those cut to tiles, or that keep their own size (Pixtral)."""
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
        """One image of one tile."""
        return torch.ones(1, 1, dtype=torch.int64)

    def aspect_ratio_mask(self) -> Tensor:
        mask = torch.zeros(1, 1, synthetic_images.tiles(self.config), dtype=torch.int64)
        mask[..., 0] = 1
        return mask

    def cross_attention_mask(self) -> Tensor | None:
        """Every token sees the image: `(1, tokens, 1, tiles)`."""
        if "aspect_ratio_ids" not in self._parameters:
            return None
        tokens = self.input_ids().shape[1]
        return self.aspect_ratio_mask()[:, None].expand(1, tokens, 1, -1).contiguous()

    def flattened_patches(self) -> Tensor:
        """Pix2Struct's patches, 8 x 8, each after its row and column: `(1, 64, 2 + pixels)`."""
        side = 8
        pixels = synthetic_images.vision_part(self.config).patch_embed_hidden_size
        place = torch.arange(side * side)
        rows_and_columns = torch.stack([place // side + 1, place % side + 1], dim=1).float()
        return torch.cat([rows_and_columns, _ramp(side * side, pixels)], dim=1)[None]

    def input_points(self) -> Tensor:
        """One point: `(1, 1, 1, 2)`, x and y in pixels."""
        return torch.tensor([[[[10.0, 12.0]]]])

    def input_labels(self) -> Tensor:
        return torch.ones(1, 1, 1, dtype=torch.int64)

    def high_res_pixel_values(self) -> Tensor:
        """The image at the size of DeepSeek-VL's second encoder: `(1, 3, side, side)`."""
        part = getattr(self.config, "high_res_vision_config", None)
        side = getattr(part, "image_size", None) or 1024
        return _ramp(1, 3, side, side)

    def visual_feats(self) -> Tensor:
        """36 regions of an image, as LXMERT's detector finds: `(1, 36, features)`."""
        return _ramp(self.family.rows, 36, self._config("visual_feat_dim", 2048))

    def visual_pos(self) -> Tensor:
        return _ramp(self.family.rows, 36, self._config("visual_pos_dim", 4)).abs()

    def query_embeds(self) -> Tensor:
        """Queries of a Q-Former: `(1, 32, width)`."""
        return _ramp(1, 32, self._config("hidden_size", 768))

    # ---------------------------------------------------------------------------------------- time and decisions

    @property
    def _past(self) -> int:
        """Steps of a time series that lie behind: the context, and as much again as the longest lag."""
        lags = self._config("lags_sequence", [])
        return int(self._config("context_length", 32) or 32) + max(lags, default=0)

    def past_values(self) -> Tensor:
        """A time series: `(1, steps)`, or `(1, steps, channels)` of several."""
        channels = self._config("num_input_channels") or self._config("input_size", 1)
        if self._config("num_input_channels") is None and channels == 1:
            return _ramp(1, self._past)
        return _ramp(1, self._past, channels)

    def past_time_features(self) -> Tensor:
        count = self._config("num_time_features", 0) + self._config("num_dynamic_real_features", 0)
        return _ramp(1, self._past, count)

    def past_observed_mask(self) -> Tensor:
        return torch.ones(self.past_values().shape)

    def states(self) -> Tensor:
        """20 states of a decision process: `(1, 20, size)`."""
        return _ramp(1, 20, self._config("state_dim", 17))

    def actions(self) -> Tensor:
        return _ramp(1, 20, self._config("act_dim", 4))

    def rewards(self) -> Tensor:
        return _ramp(1, 20, 1)

    def returns_to_go(self) -> Tensor:
        return _ramp(1, 20, 1)

    def timesteps(self) -> Tensor:
        return torch.arange(20)[None]

    def audio_values(self) -> Tensor:
        """TVLT's spectrogram: `(1, channels, frames, bins)`."""
        length, bins = self._config("spectrogram_length", 2048), self._config("frequency_length", 128)
        return _ramp(1, self._config("num_audio_channels", 1), length, bins)

    def task_inputs(self) -> Tensor:
        """OneFormer's tokens of "the task is semantic"."""
        return torch.tensor([self._ordinary(self._config("task_seq_len", 77))])


def _ramp(*shape: int) -> Tensor:
    """Values from -1 to 1: reproducible, and not all alike."""
    count = 1
    for size in shape:
        count *= size
    return torch.linspace(-1, 1, count).reshape(shape)


def describe(batch: dict[str, Any]) -> list[str]:
    """Each tensor of an input in short, those of a dict within it too: `"input_ids int64[1, 32]"`."""
    told = []
    for name, value in batch.items():
        if isinstance(value, dict):
            told += [f"{name}.{one}" for one in describe(value)]
        elif isinstance(value, Tensor):
            shape = ", ".join(map(str, value.shape))
            told.append(f"{name} {str(value.dtype).removeprefix('torch.')}[{shape}]")
    return told


_MAKERS: dict[str, Callable[[Inputs], Any]] = {
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
    )
}
