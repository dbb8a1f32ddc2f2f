"""Make a folder in the layout of `nvidia/Alpamayo-R1-10B`: its published config, and random weights on request."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.models.alpamayo import backbone, processor, published
from mpsprobe.models.hub.cache import cache_dir, made_once

if TYPE_CHECKING:
    import torch

#: The subfolder with the config, tokenizer and processor of the vision-language model.
_VLM = "vlm"
#: The largest weight file, as by default in `save_pretrained`.
_SHARD = "5GB"
#: The version of `write`, raised when it writes something else.
_RECIPE = 3
#: The sizes of text, expert and vision with `tiny`. Heads keep their size, for which the rotary sections are made.
_TINY = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
_TINY_VISION = {"hidden_size": 128, "intermediate_size": 256, "num_heads": 2, "out_hidden_size": 256}


def ensure() -> Path:
    """Return the cached folder with the published config and no weights, creating it if needed."""
    recipe = json.dumps([_RECIPE, published.CONFIG, published.VLM_CONFIG, processor.WORDS])
    folder = cache_dir() / f"alpamayo-r1-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    return made_once(folder, write)


def write(folder: Path, layers: int | None = None, *, tiny: bool = False) -> None:
    """Write config, tokenizer and processor into the empty `folder`.

    Args:
        folder: The folder to write to.
        layers: The number of text layers to keep, with as many vision layers as feed them; None for all.
        tiny: Whether to use small widths too, for tests that do not depend on the numbers.
    """
    config: dict[str, Any] = {**published.config(), "vlm_name_or_path": _VLM}
    vlm = published.vlm_config()
    if layers is not None:
        vlm = backbone.shrunk(vlm, layers)
    if tiny:
        vlm["text_config"].update(_TINY, hidden_size=256)
        vlm["vision_config"].update(_TINY_VISION)
        config["expert_cfg"].update(_TINY)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if layers is None and not tiny:
        (folder / published.MARK).write_text(f"{published.NOTE}\n", encoding="utf-8")
    (folder / _VLM).mkdir()
    backbone.write(folder / _VLM, vlm)


def write_weights(folder: Path, device: torch.device) -> dict[str, Any]:
    """Add random bfloat16 weights with the planted trace, made on `device`, as safetensors of at most 5 GB each.

    Returns:
        `parameters`, `tensors` (including buffers), `bytes` and `files`.

    Raises:
        TargetError: The package `alpamayo_r1` cannot be imported.
    """
    from huggingface_hub import save_torch_state_dict

    from mpsprobe.models import profile
    from mpsprobe.models.alpamayo import random_weights
    from mpsprobe.models.alpamayo.adapter import AlpamayoAdapter
    from mpsprobe.models.weightless import from_config

    adapter = AlpamayoAdapter(folder, profile.load("alpamayo-r1"))
    model = from_config.build(published.model_class(), adapter.config(), device, "bfloat16", initialise=False)
    random_weights.fill(model, from_config.SEED)
    random_weights.plant(model)
    state = model.state_dict()
    save_torch_state_dict(state, folder, max_shard_size=_SHARD)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tensors": len(state),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in state.values()),
        "files": len(list(folder.glob("*.safetensors"))),
    }
