"""Make a small random copy of a target, saved as a checkpoint that other libraries can load.

It has the same class, kinds of layers, head size, ratios and activation, with few layers, few heads and a small
vocabulary. Its weights are drawn so that every part matters: transformers' own initialisation leaves logits near
zero and all norms at one, so that a comparison would not notice faults in them.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpsprobe.errors import MpsprobeError, first_line
from mpsprobe.models.weightless import from_config, synthetic
from mpsprobe.models.weightless.families import family_of
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.shrink import shrink

#: The number of key-value heads, and of tokens in the vocabulary.
_KV_HEADS, _VOCABULARY = 2, 2048
#: The greatest number of query heads for each key-value head.
_GROUP = 4


@dataclass(frozen=True)
class SmallCopy:
    """A small checkpoint on disk, with inputs for it.

    Attributes:
        folder: The folder with config.json and model.safetensors in float32.
        model_class: The class that loads it.
        feeds: The arguments of a forward pass by name of the input: `"text"`, `"image and text"` or `"input"`.
        notes: Sentences about what was made smaller, or could not be.
    """

    folder: Path
    model_class: type[nn.Module]
    feeds: dict[str, dict[str, Tensor]]
    notes: list[str] = field(default_factory=list)


def write(blueprint: Blueprint, folder: Path) -> SmallCopy:
    """Build a small copy, with fewer layers and, where the class allows it, smaller widths, and save it into `folder`.

    Raises:
        MpsprobeError: The target is not a transformers model, or cannot be built or given an input.
    """
    blueprint, notes = shrink(blueprint)
    try:
        smaller = narrow(blueprint)
        model = _drawn(smaller)
        feeds = _feeds(smaller)
        notes.append("Heads, widths and vocabulary are smaller too; head size and ratios are kept.")
    except (MpsprobeError, RuntimeError, ValueError, TypeError, IndexError) as problem:
        notes.append(f"Widths are those of the target: it cannot be made narrower ({first_line(problem)}).")
        smaller = blueprint
        model = _drawn(smaller)
        feeds = _feeds(smaller)
    model.save_pretrained(folder)
    return SmallCopy(folder, smaller.model_class, feeds, notes)


def narrow(blueprint: Blueprint) -> Blueprint:
    """Return a blueprint with fewer heads, a smaller width and a small vocabulary; its head size stays the same."""
    config = copy.deepcopy(blueprint.config)
    text = getattr(config, "text_config", None) or config
    _narrow_text(text)
    vision = getattr(config, "vision_config", None)
    if vision is not None:
        _narrow_vision(vision, text.hidden_size)
    _renumber(config)
    return dataclasses.replace(blueprint, config=config)


def _narrow_text(config: Any) -> None:
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = min(kv, _KV_HEADS)
    config.num_attention_heads = kept * min(heads // kv, _GROUP)
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = kept
    config.hidden_size = config.num_attention_heads * size
    for name in ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"):
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, min(getattr(config, name), 2 * config.hidden_size))
    config.vocab_size = min(config.vocab_size, _VOCABULARY)


def _narrow_vision(config: Any, width: int) -> None:
    """Narrow a vision tower that calls its heads `num_heads`, as Qwen's do; others keep their widths."""
    heads = getattr(config, "num_heads", None)
    if not isinstance(heads, int):
        return
    size = config.hidden_size // heads
    config.num_heads = min(heads, _KV_HEADS)
    config.hidden_size = config.num_heads * size
    if isinstance(getattr(config, "intermediate_size", None), int):
        config.intermediate_size = min(config.intermediate_size, 2 * config.hidden_size)
    if hasattr(config, "out_hidden_size"):
        config.out_hidden_size = width


def _renumber(config: Any) -> None:
    """Give special tokens beyond the small vocabulary ids at its end, a different one for each."""
    parts = [part for part in (config, getattr(config, "text_config", None)) if part is not None]
    size = min(part.vocab_size for part in parts if isinstance(getattr(part, "vocab_size", None), int))
    moved: dict[int, int] = {}
    for part in parts:
        for name, value in vars(part).items():
            if name.endswith("_token_id"):
                setattr(part, name, _moved(value, size, moved))


def _moved(value: Any, size: int, moved: dict[int, int]) -> Any:
    if isinstance(value, list):
        return [_moved(one, size, moved) for one in value]
    if not isinstance(value, int) or value < size:
        return value
    return moved.setdefault(value, size - 1 - len(moved))


@torch.no_grad()
def _drawn(blueprint: Blueprint) -> Any:
    """Build the model in float32, and draw weights that all affect its result."""
    cls, config = blueprint.model_class, copy.deepcopy(blueprint.config)
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        part.dtype = torch.float32  # each part is built in the dtype that its own config states
    model = from_config.build(cls, config, torch.device("cpu"), "float32", initialise=True)
    generator = torch.Generator().manual_seed(from_config.SEED)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.copy_(noise / parameter[0].numel() ** 0.5)
        else:
            parameter.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.1 * noise)
    return model


def _feeds(blueprint: Blueprint) -> dict[str, dict[str, Tensor]]:
    """Make the inputs by name: with images and text, and with text only; or the only one that the model takes."""
    family = family_of(blueprint.model_class.__name__)
    whole = synthetic.Inputs(blueprint.model_class, blueprint.config, family, torch.float32).make()
    tensors = {name: value for name, value in whole.items() if isinstance(value, Tensor)}
    if "input_ids" in tensors:
        # without a mask, transformers 4.57.1 computes Qwen3-VL's positions wrongly
        tensors.setdefault("attention_mask", torch.ones_like(tensors["input_ids"]))
    if "pixel_values" not in tensors or "input_ids" not in tensors:
        return {"text" if "input_ids" in tensors else "input": tensors}
    special = {value for name, value in vars(blueprint.config).items() if name.endswith("_token_id")}
    ids = tensors["input_ids"]
    plain = torch.tensor([[one for one in ids[0].tolist() if one not in special]])
    text = {"input_ids": plain, "attention_mask": torch.ones_like(plain)}
    return {"text": text, "image and text": tensors}
