"""The same model with fewer layers: same widths, head sizes, dtypes and code paths, a fraction of the memory."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from mpsprobe.errors import UsageError
from mpsprobe.models.from_config import Blueprint

#: Layers kept at least, and experts: enough for every kind of layer beside another, and for routing.
_LAYERS, _EXPERTS = 2, 4
#: What configs of transformers call their number of layers (`depth` is that of Qwen-VL's vision tower).
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "depth",
    "num_query_tokens_layers",
)
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_top_k", "top_k", "num_experts_per_token")
#: Lists of one entry a layer.
_PER_LAYER = ("layer_types", "layers_block_type", "no_rope_layers", "attention_layers", "block_types")
#: Lists of indices of layers.
_INDICES = (
    "deepstack_visual_indexes",
    "global_attn_indexes",
    "mlp_only_layers",
    "moe_layers",
    "fullatt_block_indexes",
    "cross_attention_layers",
    "attn_layer_indices",
    "out_indices",
    "dense_attention_every_n_layers",
)


def shrink(blueprint: Blueprint) -> tuple[Blueprint, list[str]]:
    """A blueprint with fewer layers and experts, and what was changed, one sentence each.

    Raises:
        UsageError: the config names no number of layers that is known here.
    """
    if not blueprint.is_pretrained:
        raise UsageError(
            f"{blueprint.name}: not a transformers config, whose layers could be counted.",
            "Write the smaller numbers into the file of --config.",
        )
    config = copy.deepcopy(blueprint.config)
    changes: list[str] = []
    for path, part in _parts(config, ""):
        _shrink_part(path, part, changes)
    if not changes:
        raise UsageError(f"{blueprint.name}: nothing in its config could be shrunk.", "Leave --shrink out.")
    return dataclasses.replace(blueprint, config=config), [f"Shrunk: {'; '.join(changes)}."]


def _parts(config: Any, path: str) -> list[tuple[str, Any]]:
    """A config and the configs in it, with their paths."""
    from transformers import PretrainedConfig

    found = [(path, config)]
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            found += _parts(value, f"{path}{name}.")
    return found


def _shrink_part(path: str, config: Any, changes: list[str]) -> None:
    own = vars(config)
    attribute_map = getattr(config, "attribute_map", {})
    keep = _layers_to_keep(config)
    for name in _COUNTS:
        stored = attribute_map.get(name, name)
        count = own.get(stored)
        if isinstance(count, int) and not isinstance(count, bool) and count > keep:
            setattr(config, stored, keep)
            changes.append(f"{path}{stored} {count} -> {keep}")
            _shorten_lists(path, config, keep, count, changes)
    stages = own.get("depths")
    if isinstance(stages, (list, tuple)) and any(isinstance(one, int) and one > 1 for one in stages):
        config.depths = type(stages)(min(one, 1) for one in stages)
        changes.append(f"{path}depths {list(stages)} -> {list(config.depths)}")
    chosen = max((own[name] for name in _CHOSEN if isinstance(own.get(name), int)), default=1)
    groups = own.get("n_group") if isinstance(own.get("n_group"), int) else 1
    for name in _EXPERT_COUNTS:
        stored = attribute_map.get(name, name)
        count, fewest = own.get(stored), max(_EXPERTS, 2 * chosen, 2 * (groups or 1))
        if isinstance(count, int) and count > fewest:
            setattr(config, stored, fewest)
            changes.append(f"{path}{stored} {count} -> {fewest}")


def _layers_to_keep(config: Any) -> int:
    """So many of the first layers that every kind is among them."""
    keep = _LAYERS
    for name in _PER_LAYER:
        kinds = getattr(config, name, None)
        if isinstance(kinds, (list, tuple)) and kinds:
            keep = max(keep, *(kinds.index(kind) + 1 for kind in set(kinds)))
    # every n-th layer is another kind, counted from the first or from an offset
    for period, offset in (
        ("interleave_moe_layer_step", None),
        ("decoder_sparse_step", None),
        ("attn_layer_period", "attn_layer_offset"),
        ("expert_layer_period", "expert_layer_offset"),
        ("full_attention_interval", None),
        ("sliding_window_pattern", None),
    ):
        step = getattr(config, period, None)
        if isinstance(step, int) and step > 1:
            keep = max(keep, getattr(config, offset, step - 1) + 1 if offset else step)
    dense = getattr(config, "first_k_dense_replace", None)  # DeepSeek: the first k have no experts
    if isinstance(dense, int):
        keep = max(keep, dense + 1)
    indices = getattr(config, "cross_attention_layers", None) or getattr(config, "mlp_only_layers", None)
    if isinstance(indices, (list, tuple)) and indices:
        keep = max(keep, min(indices) + 2)
    return keep


def _shorten_lists(path: str, config: Any, keep: int, count: int, changes: list[str]) -> None:
    own = vars(config)
    for name in _PER_LAYER:
        values = own.get(name)
        if isinstance(values, (list, tuple)) and len(values) == count:
            setattr(config, name, values[:keep])
    for name in _INDICES:
        values = own.get(name)
        if not isinstance(values, (list, tuple)) or not all(isinstance(one, int) for one in values):
            continue
        inside = [one for one in values if one < keep]
        if len(inside) == len(values):
            continue
        # as many taps as there were, or the layers' own number of them would not fit what reads them
        inside = inside or [keep - 1]
        setattr(config, name, type(values)(inside))
        changes.append(f"{path}{name} {list(values)} -> {inside}")
