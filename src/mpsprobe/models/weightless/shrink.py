"""Shrink a model to fewer layers with the same widths, head sizes, dtypes and code paths."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from mpsprobe.errors import UsageError
from mpsprobe.models.weightless.from_config import Blueprint

#: The number of layers, experts, and blocks of a stage that are kept (Swin shifts its windows in every second block).
_LAYERS, _EXPERTS, _BLOCKS = 2, 4, 2
#: Names of the number of layers in configs of transformers (`depth` is that of Qwen-VL's vision tower).
_COUNTS = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_global_layers",
    "depth",
)
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k", "num_experts_per_token")
#: Lists with one entry for each layer.
_PER_LAYER = (
    "layer_types",
    "layers_block_type",
    "no_rope_layers",
    "attention_layers",
    "block_types",
    "attention_window",
)
#: Indices of layers of a different kind; one of them and one of the others must stay.
_KINDS = (
    "global_attn_indexes",
    "mlp_only_layers",
    "moe_layers",
    "fullatt_block_indexes",
    "cross_attention_layers",
    "attn_layer_indices",
)
#: Indices of layers whose outputs are used elsewhere, so that their number must not change.
_TAPS = ("deepstack_visual_indexes", "backbone_out_indices", "intermediate_layers_indices")


def shrink(blueprint: Blueprint) -> tuple[Blueprint, list[str]]:
    """Return a blueprint with fewer layers and experts, and a list of sentences about the changes.

    A config without numbers that could be smaller is returned as it is, with a sentence that says so.

    Raises:
        UsageError: The config is not one of transformers.
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
        return blueprint, ["Nothing was shrunk: the config names no number of layers that could be less."]
    return dataclasses.replace(blueprint, config=config), [f"Shrunk: {'; '.join(changes)}."]


def _parts(config: Any, path: str) -> list[tuple[str, Any]]:
    """Return a config and its nested configs, each with the prefix of its fields: `""`, `"text_config."`."""
    from transformers import PretrainedConfig

    found = [(path, config)]
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            found += _parts(value, f"{path}{name}.")
    return found


def _shrink_part(path: str, config: Any, changes: list[str]) -> None:
    own = vars(config)
    stages = own.get("depths")
    if isinstance(stages, (list, tuple)) and any(isinstance(one, int) and one > _BLOCKS for one in stages):
        config.depths = type(stages)(min(one, _BLOCKS) for one in stages)
        changes.append(f"{path}depths {list(stages)} -> {list(config.depths)}")
    # with `depths`, `num_layers` is the number of stages; the stages of a backbone are read by their names
    if stages is None and not (path.endswith("backbone_config.") and hasattr(config, "stage_names")):
        _shrink_layers(path, config, changes)
    _shrink_experts(path, config, changes)


def _shrink_layers(path: str, config: Any, changes: list[str]) -> None:
    own, keep = vars(config), _layers_to_keep(config)
    for name in _COUNTS:
        stored = _stored(config, name)
        count = own.get(stored)
        if isinstance(count, int) and not isinstance(count, bool) and count > keep:
            setattr(config, stored, keep)
            changes.append(f"{path}{stored} {count} -> {keep}")
            _shorten_lists(path, config, keep, count, changes)


def _shrink_experts(path: str, config: Any, changes: list[str]) -> None:
    own = vars(config)
    chosen = max((own[name] for name in _CHOSEN if isinstance(own.get(name), int)), default=1)
    groups = own.get("n_group")
    fewest = max(_EXPERTS, 2 * chosen, 2 * groups if isinstance(groups, int) else 0)
    for name in _EXPERT_COUNTS:
        stored = _stored(config, name)
        count = own.get(stored)
        if isinstance(count, int) and count > fewest:
            setattr(config, stored, fewest)
            changes.append(f"{path}{stored} {count} -> {fewest}")


def _stored(config: Any, name: str) -> str:
    """Return the name under which a config stores a value, which may have other names too (`attribute_map`)."""
    found: str = getattr(config, "attribute_map", {}).get(name, name)
    return found


def _layers_to_keep(config: Any) -> int:
    """Return the number of first layers to keep: two, or more where the first two lack a kind or a tapped layer."""
    keep = _LAYERS
    for name in _PER_LAYER:
        kinds = getattr(config, name, None)
        if isinstance(kinds, (list, tuple)) and kinds:
            keep = max(keep, *(kinds.index(kind) + 1 for kind in set(kinds)))
    for name in _TAPS:
        keep = max(keep, len(getattr(config, name, None) or ()))
    # every n-th layer is of another kind, counted from the first or from an offset
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
    dense = getattr(config, "first_k_dense_replace", None)  # DeepSeek: the first k layers have no experts
    return max(keep, dense + 1) if isinstance(dense, int) else keep


def _shorten_lists(path: str, config: Any, keep: int, count: int, changes: list[str]) -> None:
    own = vars(config)
    for name in _PER_LAYER:
        values = own.get(name)
        if isinstance(values, (list, tuple)) and len(values) == count:
            setattr(config, name, values[:keep])
    for name in (*_KINDS, *_TAPS):
        values = own.get(name)
        if not isinstance(values, (list, tuple)) or not values or max(values) < keep:
            continue
        inside = [one for one in values if one < keep] or [keep - 1]
        kept = list(range(keep - len(values), keep)) if name in _TAPS else inside
        setattr(config, name, type(values)(kept))
        changes.append(f"{path}{name} {_brief(values)} -> {_brief(kept)}")


def _brief(values: list[int] | tuple[int, ...]) -> str:
    return str(list(values)) if len(values) <= 8 else f"[{values[0]} ... {values[-1]}]"
