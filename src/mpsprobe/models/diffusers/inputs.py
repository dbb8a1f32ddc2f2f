"""Make inputs for single models of diffusers (a UNet, a DiT, a VAE), and token ids for a pipeline's text encoders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpsprobe.errors import TargetError

#: Defaults: tokens of a prompt (CLIP), the timestep, the sides of latents, and frames of a video.
_TOKENS, _TIMESTEP, _SIDE, _FRAMES = 77, 500, 64, 3


def knows(cls: type[nn.Module]) -> bool:
    """Return whether a class derives from diffusers' `ModelMixin`, without importing diffusers."""
    return any(f"{base.__module__}.{base.__name__}" == _BASE for base in getattr(cls, "__mro__", ()))


_BASE = "diffusers.models.modeling_utils.ModelMixin"


def construct(cls: Any, values: dict[str, Any]) -> nn.Module:
    """Construct a model from its config.json, without its quantisation.

    Keys that begin with `_` are left out too, because they are not arguments.
    """
    model: nn.Module = cls.from_config(
        {name: value for name, value in values.items() if name[:1] != "_" and name != "quantization_config"}
    )
    return model


def make(cls: type[nn.Module], values: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Make the arguments of the forward pass on the CPU, with floating tensors in `dtype`.

    Raises:
        TargetError: The model requires an argument for which there is no rule.
    """
    with torch.device("meta"):
        config: Any = construct(cls, values).config
    made = _Maker(config)
    forward: Any = getattr(cls, "forward")  # noqa: B009
    batch: dict[str, Any] = {}
    for name, parameter in inspect.signature(forward).parameters.items():
        maker = _MAKERS.get(name)
        value = maker(made) if maker is not None else None
        if value is not None:
            batch[name] = (
                value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            )
        elif (
            parameter.default is parameter.empty
            and name != "self"
            and parameter.kind is not parameter.VAR_KEYWORD
        ):
            raise TargetError(
                f"{cls.__name__} requires {name!r}, which is not made up.",
                "Give the whole pipeline, the folder of its model_index.json; or say in the file of --config: "
                '"mpsprobe": {"inputs": {...}}.',
            )
    return batch


class _Maker:
    """Make the arguments of a single model's forward pass from its config; None for those that it does not take."""

    def __init__(self, config: Any) -> None:
        self._config = config
        #: SD 3 and PixArt split latents into patches themselves; Flux takes patches of 2 x 2.
        self._packed = "axes_dims_rope" in config

    def latents(self) -> Tensor:
        side = self._get("sample_size") or _SIDE
        rows, columns = (side, side) if isinstance(side, int) else side
        channels = self._get("in_channels") or 4
        if self._packed:
            return _ramp(1, (rows // 2) * (columns // 2), channels)
        patch = self._get("patch_size")
        video = isinstance(patch, (list, tuple)) and len(patch) == 3
        return _ramp(1, channels, *([_FRAMES] if video else []), rows, columns)

    def timestep(self) -> Tensor:
        return torch.tensor([1.0 if self._packed else _TIMESTEP])

    def text(self) -> Tensor | None:
        width = next(
            (
                self._get(name)
                for name in ("joint_attention_dim", "caption_channels", "text_dim", "cross_attention_dim")
                if isinstance(self._get(name), int)
            ),
            None,
        )
        return None if width is None else _ramp(1, _TOKENS, width)

    def pooled(self) -> Tensor | None:
        width = self._get("pooled_projection_dim")
        return None if width is None else _ramp(1, width)

    def class_labels(self) -> Tensor | None:
        wanted = self._get("num_embeds_ada_norm") if "norm_type" in self._config else None
        wanted = wanted if self._get("norm_type") == "ada_norm_zero" else self._get("num_class_embeds")
        return None if wanted is None else torch.zeros(1, dtype=torch.int64)

    def image_ids(self) -> Tensor:
        """Return 0, row and column of each patch: `(patches, 3)` float32."""
        patches = self.latents().shape[1]
        side = math.isqrt(patches)
        places = torch.arange(patches)
        return torch.stack(
            [torch.zeros(patches, dtype=torch.int64), places // side, places % side], dim=1
        ).float()

    def text_ids(self) -> Tensor:
        return torch.zeros(_TOKENS, 3)

    def guidance(self) -> Tensor | None:
        return torch.tensor([3.5]) if self._get("guidance_embeds") else None

    def conditions(self) -> dict[str, Any] | None:
        """Return the conditions that SDXL and models with `caption_channels` (PixArt) take; None for other models."""
        if self._get("addition_embed_type") == "text_time":
            ids = 6  # size, crop and target size, two numbers each
            pooled = (
                self._config.projection_class_embeddings_input_dim
                - ids * self._config.addition_time_embed_dim
            )
            return {"text_embeds": _ramp(1, pooled), "time_ids": torch.full((1, ids), 1024.0)}
        return {"resolution": None, "aspect_ratio": None} if self._get("caption_channels") else None

    def _get(self, name: str) -> Any:
        return self._config.get(name)


def _ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


_MAKERS: dict[str, Callable[[_Maker], Any]] = {
    "sample": _Maker.latents,
    "hidden_states": _Maker.latents,
    "timestep": _Maker.timestep,
    "encoder_hidden_states": _Maker.text,
    "pooled_projections": _Maker.pooled,
    "class_labels": _Maker.class_labels,
    "img_ids": _Maker.image_ids,
    "txt_ids": _Maker.text_ids,
    "guidance": _Maker.guidance,
    "added_cond_kwargs": _Maker.conditions,
}


#: The number of ids of a short prompt without padding.
_WORDS = 8


class MadeUpTokenizer:
    """A substitute for a pipeline's tokenizer that returns ids in the text encoder's vocabulary, whatever the text.

    Attributes:
        model_max_length: The number of positions of the encoder (512 where its config states no limit, as in T5).
        added_tokens_encoder: An empty dict, in which pipelines look up textual inversions.
    """

    def __init__(self, config: Any) -> None:
        text = getattr(config, "text_config", config)
        self._vocabulary = int(text.vocab_size)
        self._end = _id(text, "eos_token_id", self._vocabulary - 1)
        self._pad = _id(text, "pad_token_id", self._end)
        self.model_max_length = int(getattr(text, "max_position_embeddings", None) or 512)
        self.added_tokens_encoder: dict[str, int] = {}

    def __call__(
        self,
        text: str | list[str],
        padding: Any = False,
        max_length: int | None = None,
        **options: Any,
    ) -> Any:
        """Return `input_ids` and `attention_mask`, int64 `(texts, ids)`: 8 ids, or as many as `padding` asks for."""
        from transformers import BatchEncoding

        del options
        length = (max_length or self.model_max_length) if padding == "max_length" else _WORDS
        words = min(_WORDS, length) - 1
        first = self._vocabulary // 4
        ids = [first + place % max(1, self._vocabulary // 2) for place in range(words)] + [self._end]
        ids += [self._pad] * (length - len(ids))
        mask = [1] * (words + 1) + [0] * (length - words - 1)
        rows = 1 if isinstance(text, str) else len(text)
        return BatchEncoding(
            {"input_ids": torch.tensor([ids] * rows), "attention_mask": torch.tensor([mask] * rows)}
        )

    @staticmethod
    def tokenize(text: str) -> list[str]:
        """Return the words of a text, among which pipelines search for placeholders of textual inversions."""
        return text.split()


def _id(config: Any, name: str, default: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) and 0 <= value < int(config.vocab_size) else default
