"""Make images for a transformers model, and their placeholders in a prompt, from its config or its own code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import MpsprobeError, TargetError, docs
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.shrink import shrink

#: Default sides in pixels: of a classifier, and of a detector (DETR resizes the
#: shorter side to 800).
_SIDE, _DETECTOR_SIDE = 224, 800
#: Rows and columns of patches of an image that keeps its own size: 256 x 384 pixels with patches of 16.
_ROWS, _COLUMNS = 16, 24
#: The side in patches of an image of SigLIP 2, which has a square of positions.
_SQUARE = 16


def text_part(config: Any) -> Any:
    """Return the part of a config that describes text; the config itself when it has no such part."""
    for name in ("text_config", "language_config", "llm_config", "thinker_config", "decoder", "text_model"):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, (str, int)):
            return text_part(part) if name == "thinker_config" else part
    return config


def vision_part(config: Any) -> Any:
    """Return the part of a config that describes images; the config itself when it has no such part."""
    for name in ("vision_config", "thinker_config", "encoder", "backbone_config", "vision_model"):
        part = getattr(config, name, None)
        if part is not None and not isinstance(part, (str, int)):
            return vision_part(part) if name == "thinker_config" else part
    return config


def special_ids(config: Any) -> frozenset[int]:
    """Return the special token ids (`*_token_id`, `*_token_index`) in the config and its part for text."""
    found: set[int] = set()
    for part in {id(part): part for part in (config, text_part(config))}.values():
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index")):
                found.update(value if isinstance(value, (list, tuple)) else [value])
    return frozenset(value for value in found if isinstance(value, int))


def image_size(config: Any) -> tuple[int, int]:
    """Return the height and width of an image in pixels: as the config states them, else 800 for detectors and 224."""
    vision = vision_part(config)
    prompted = getattr(config, "prompt_encoder_config", None)  # SAM: the side of the image that it segments
    for part in (vision, config, prompted):
        size = getattr(part, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) == 2:
            return int(size[0]), int(size[1])
    ratios = getattr(config, "scaled_images_ratios", None)  # DepthPro: the smallest copy is one patch
    if ratios:
        return (int(config.patch_size / min(ratios)),) * 2
    side = _DETECTOR_SIDE if hasattr(config, "num_queries") else _SIDE
    return side, side


def channels(config: Any) -> int:
    """Return the number of channels of an image that a config states; 3 where it states none."""
    vision = vision_part(config)
    for part in (vision, config):
        for name in ("num_channels", "in_channels", "in_chans"):
            value = getattr(part, name, None)
            if isinstance(value, int):
                return value
    return 3


def pixels(config: Any, parameters: Collection[str], rows: int, notes: list[str]) -> Tensor:
    """Return pixel values in the layout that the forward pass takes.

    The layout is `(patches, channels * frames * side * side)` where it also takes `image_grid_thw` (Qwen-VL and
    similar), `(rows, patches, channels * side * side)` where it takes `spatial_shapes` (SigLIP 2) or positions of
    patches, `(1, images, channels, height, width)` where it takes `pixel_attention_mask` (Idefics 2 and 3), `(1, 1,
    tiles, channels, height, width)` where it takes `aspect_ratio_ids` (Llama 3.2), `(1, tiles, channels, height,
    width)` where its config lists sizes of tiled images (LLaVA-NeXT), and otherwise `(rows, channels, height, width)`.

    Args:
        config: The config of the model.
        parameters: The names of the arguments of its forward pass.
        rows: The number of images, in layouts with a row for each.
        notes: A list to which sentences about the size are appended.
    """
    if {"image_grid_thw", "grid_thw"} & set(parameters):
        vision = vision_part(config)
        frames = getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", 1)
        patch = vision.patch_size * vision.patch_size * frames
        height, width = _ROWS * vision.patch_size, _COLUMNS * vision.patch_size
        notes.append(f"Image: {height} x {width} pixels.")
        return _image(_ROWS * _COLUMNS, channels(config) * patch)
    if {"spatial_shapes", "pixel_position_ids", "image_position_ids"} & set(
        parameters
    ):  # SigLIP 2 takes patches, whatever the shape of the image
        patch = getattr(vision_part(config), "patch_size", None) or _ROWS
        notes.append(f"Image: {_SQUARE * patch} x {_SQUARE * patch} pixels.")
        return _image(rows, _SQUARE * _SQUARE, channels(config) * patch * patch)
    height, width = image_size(config)
    notes.append(f"Image: {height} x {width} pixels.")
    if "pixel_attention_mask" in parameters:
        return _image(1, 1, channels(config), height, width)
    if "aspect_ratio_ids" in parameters:
        return _image(1, 1, tiles(config), channels(config), height, width)
    whole = tiled_size(config)
    if whole is not None and "image_sizes" in parameters:
        cut = (whole[0] // height) * (whole[1] // width)
        notes.append(f"It is cut from one of {whole[0]} x {whole[1]}, {cut} tiles beside the whole.")
        return _image(1, cut + 1, channels(config), height, width)
    return _image(rows, channels(config), height, width)


def tiles(config: Any) -> int:
    """Return the most tiles into which a model (Llama 3.2 Vision) cuts one image; 1 where its config states none."""
    return int(getattr(vision_part(config), "max_num_tiles", None) or 1)


def tiled_size(config: Any) -> tuple[int, int] | None:
    """Return the first height and width in pixels that the config lists for tiled images; None where it lists none."""
    sizes = getattr(config, "image_grid_pinpoints", None)
    return (int(sizes[0][0]), int(sizes[0][1])) if sizes else None


def video(config: Any, notes: list[str]) -> Tensor:
    """Return the pixel values of a video, `(1, frames, channels, height, width)`, and add a note on its size."""
    height, width = image_size(config)
    vision = vision_part(config)
    frames = getattr(vision, "num_frames", None) or getattr(vision, "frames_per_clip", None) or 8
    notes.append(f"Video: {frames} frames of {height} x {width} pixels.")
    return _image(1, frames, channels(config), height, width)


def spatial_shapes(rows: int) -> Tensor:
    """Return the rows and columns of patches of each image, 16 of both: `(rows, 2)` int64."""
    return torch.tensor([[_SQUARE, _SQUARE]] * rows)


def grid(config: Any) -> Tensor:
    """Return the frames, rows and columns of one image's patches, equal for every config: `(1, 3)` int64."""
    del config
    return torch.tensor([[1, _ROWS, _COLUMNS]])


def image_token(config: Any) -> int | None:
    """Return the id of the placeholder token of an image; None when the config names none."""
    token: int | None = _first(config, "image_token_id", "image_token_index", "media_placeholder_token_id")
    return token


def with_placeholders(config: Any, ids: list[int], found: int | None, notes: list[str]) -> list[int]:
    """Return a prompt with the placeholder tokens of one image after its first three tokens.

    A prompt for a model without placeholders is returned as it is.

    Args:
        config: The config of the model.
        ids: The tokens of the prompt.
        found: The number of features that the model makes of the image; None where its class could not count them.
        notes: A list to which a sentence is appended.

    Raises:
        TargetError: Neither the model nor the config gives the number of placeholders.
    """
    token = image_token(config)
    if token is None:
        return ids  # the image enters by cross-attention or as a prefix
    before, after = (
        _first(config, "vision_start_token_id", "boi_token_index", "boi_token_id"),
        _first(config, "vision_end_token_id", "eoi_token_index", "eoi_token_id"),
    )
    count = found or image_tokens(config)
    notes.append(f"The prompt holds {count} places for one image.")
    return [
        *ids[:3],
        *([before] if before is not None else []),
        *[token] * count,
        *([after] if after is not None else []),
        *ids[3:],
    ]


def image_tokens(config: Any) -> int:
    """Return the number of placeholder tokens of one image, derived from the config.

    Raises:
        TargetError: The config does not state it.
    """
    vision = vision_part(config)
    if hasattr(vision, "max_num_tiles"):  # Llama 3.2: one token, because the image enters by cross-attention
        return 1
    merge = getattr(vision, "spatial_merge_size", None)
    if merge is not None and hasattr(vision, "temporal_patch_size"):  # Qwen-VL and similar models
        return _ROWS * _COLUMNS // int(merge) ** 2
    stated = _first(config, "mm_tokens_per_image", "image_seq_length", "image_seq_len", "num_image_tokens")
    stated = stated if stated is not None else _first(vision, "num_image_tokens")
    patches = _patches(config, vision)
    if patches is None:
        if stated is not None:
            return int(stated)
        raise TargetError(
            f"{type(config).__name__} does not say how many tokens stand for an image.",
            f"Add the repository's processor files, or make its sample in a target.py: {docs('targets.md')}",
        )
    pooled = getattr(config, "mm_tokens_per_image", None)
    if isinstance(pooled, int):  # Gemma 3 pools to a stated number
        return pooled
    ratio = _first(config, "scale_factor", "downsample_ratio", "pixel_shuffle_ratio")
    ratio = ratio if ratio is not None else _first(vision, "pixel_shuffle_ratio")
    if ratio:
        shrink = 1 / ratio if ratio < 1 else ratio
        return int(patches // shrink**2)
    return patches + (1 if _first(config, "vision_feature_select_strategy") == "full" else 0)


def _patches(config: Any, vision: Any) -> int | None:
    side = getattr(vision, "patch_size", None)
    if isinstance(side, (list, tuple)) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int):
        return None
    height, width = image_size(config)
    return math.floor(height / side) * math.floor(width / side)


def _first(part: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(part, name, None)) is not None), None)


def _image(*shape: int) -> Tensor:
    """Return an image whose values rise from -1 to 1, in the given shape."""
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape)


#: Where the class runs: without memory, or, where its code needs values, on the CPU with few layers and uninitialised
# weights.
_PLACES = (torch.device("meta"), torch.device("cpu"))


def count_features(model_class: Any, config: Any, image: dict[str, Any]) -> int | None:
    """Return the number of placeholders of an image in a prompt; None where the class cannot be run to count them.

    The class is built with few layers, whose number does not change the number of features.

    Args:
        model_class: A class of transformers, which has `get_image_features` if it puts features into a prompt.
        config: Its config.
        image: The arguments of the forward pass that describe the image.
    """
    for place in _PLACES:
        try:
            return _asked(model_class, config, image, place) or None
        # code that reads values or lacks an argument may raise anything
        except (MpsprobeError, RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            continue
    return None


def _asked(model_class: Any, config: Any, image: dict[str, Any], place: torch.device) -> int:
    small, _ = shrink(Blueprint("", model_class, config))
    model: Any = from_config.build(model_class, small.config, place, initialise=False)
    # the class with a head often delegates to the one without
    inner = getattr(model, "model", None)
    ask = getattr(inner, "get_image_features", None) or model.get_image_features
    accepted = inspect.signature(ask).parameters
    dtype = next(model.parameters()).dtype
    given = {name: _placed(value, place, dtype) for name, value in image.items() if name in accepted}
    with torch.inference_mode():
        return _features(ask(**given))


def _placed(value: Any, place: torch.device, dtype: torch.dtype) -> Any:
    """Move floating-point tensors to the device and dtype; leave sizes, whose values the code reads."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(place, dtype)
    return value


def _features(found: Any) -> int:
    """Count the feature vectors of one image in all tensors of a result; each is a row along the last dimension.

    Qwen3-VL returns a pair: the features, and others for deeper layers, which take no place in the prompt.
    """
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, (tuple, list)) for one in found):
        return _features(found[0])
    if isinstance(found, Tensor):
        return found.numel() // found.shape[-1]
    if hasattr(found, "pooler_output"):  # transformers 5
        return _features(found.pooler_output)
    return sum(map(_features, found)) if isinstance(found, (list, tuple)) else 0
