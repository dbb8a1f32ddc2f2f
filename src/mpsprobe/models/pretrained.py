"""Loading a transformers class from a local folder onto a device, with nothing silently made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mpsprobe.errors import TargetError
from mpsprobe.models.adapter import Weights
from mpsprobe.models.weightless import from_config


def load_pretrained(
    cls: Any,
    snapshot: Path,
    device: torch.device,
    dtype: str,
    attention: str = "",
    unused: tuple[str, ...] = (),
    weights: Weights = Weights.STORED,
) -> torch.nn.Module:
    """`cls.from_pretrained(snapshot)` in eval mode on `device`.

    Weights are read on the CPU, then moved one parameter at a time: safetensors maps the file instead of
    copying it (unless `dtype` is not the stored one), so on unified memory the peak is the model once.
    `device_map` would need accelerate, which transformers does not require.

    Args:
        cls: a model class or Auto class of transformers.
        snapshot: folder with config and weights.
        device: where to.
        dtype: of the weights, `"auto"` for the stored one.
        attention: attn_implementation; `""` leaves the class its own default.
        unused: beginnings of the names of weights that may be missing, because the caller does not use
            what they compute.
        weights: other than stored ones: the model is built from its config alone.

    Raises:
        TargetError: weights are missing; transformers alone would warn and use random ones.
        RuntimeError: weights have another shape than the class; transformers' own words.
    """
    if weights is not Weights.STORED:
        config = cls.config_class.from_pretrained(snapshot, local_files_only=True)
        return from_config.build(cls, config, device, dtype, attention, initialise=weights is Weights.RANDOM)
    model, info = cls.from_pretrained(
        snapshot,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        local_files_only=True,
        use_safetensors=True,  # pickles are never read
        output_loading_info=True,
        **({"attn_implementation": attention} if attention else {}),
    )
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(unused))
    if missing:
        raise TargetError(
            f"{snapshot}: {len(missing)} weights of {type(model).__name__} are missing, first {missing[0]}.",
            "The weights are not of this class: check architectures in config.json.",
        )
    moved: torch.nn.Module = model.to(device).eval()
    return moved
