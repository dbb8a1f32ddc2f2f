"""How many features a model makes of an image: asked of its own code, on tensors without memory."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from mpsprobe.errors import MpsprobeError
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.shrink import shrink

#: Where it is asked: without memory, or where its code wants values, with few layers and weights that nobody wrote.
_PLACES = (torch.device("meta"), torch.device("cpu"))


def count(model_class: Any, config: Any, image: dict[str, Any]) -> int | None:
    """The number of places that an image takes in a prompt; None where the class cannot be asked.

    The class is built with few layers: their number does not change how many features there are.

    Args:
        model_class: of transformers, which has `get_image_features` where it puts them into a prompt.
        config: its config.
        image: arguments of the forward pass that describe the image.
    """
    for place in _PLACES:
        try:
            return _asked(model_class, config, image, place) or None
        # what it raises where it looks at values, or lacks an argument, is as various as the models
        except (MpsprobeError, RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
            continue
    return None


def _asked(model_class: Any, config: Any, image: dict[str, Any], place: torch.device) -> int:
    small, _ = shrink(Blueprint("", model_class, config))
    model: Any = from_config.build(model_class, small.config, place, initialise=False)
    # the class with a head often hands on to the one without
    inner = getattr(model, "model", None)
    ask = getattr(inner, "get_image_features", None) or model.get_image_features
    accepted = inspect.signature(ask).parameters
    dtype = next(model.parameters()).dtype
    given = {name: _placed(value, place, dtype) for name, value in image.items() if name in accepted}
    with torch.inference_mode():
        return _features(ask(**given))


def _placed(value: Any, place: torch.device, dtype: torch.dtype) -> Any:
    """Pixels go there; sizes stay and keep their values, since code reads them."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(place, dtype)
    return value


def _features(found: Any) -> int:
    """Rows of the last dimension, over all tensors of a result: one an image.

    Qwen3-VL gives a pair: the features, and others for deeper layers, which take no place in the prompt.
    """
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(one, (tuple, list)) for one in found):
        return _features(found[0])
    if isinstance(found, Tensor):
        return found.numel() // found.shape[-1]
    if hasattr(found, "pooler_output"):  # transformers 5
        return _features(found.pooler_output)
    return sum(map(_features, found)) if isinstance(found, (list, tuple)) else 0
