"""Loading a transformers class from a local folder onto a device, with nothing silently made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mpsprobe.errors import TargetError


def load_pretrained(
    cls: Any, snapshot: Path, device: torch.device, dtype: str, attention: str = "", **options: Any
) -> torch.nn.Module:
    """`cls.from_pretrained(snapshot)` in eval mode on `device`.

    Weights are read on the CPU, then moved one parameter at a time: safetensors maps the file instead of
    copying it, so on unified memory the peak is the model once. `device_map` would need accelerate, which
    transformers does not require.

    Args:
        cls: a model class or Auto class of transformers.
        snapshot: folder with config and weights.
        device: where to.
        dtype: of the weights, `"auto"` for the stored one.
        attention: attn_implementation; `""` leaves the class its own default.
        options: further arguments of `from_pretrained`.

    Raises:
        TargetError: weights are missing, or do not fit; transformers alone would warn and use random ones.
    """
    if attention:
        options["attn_implementation"] = attention
    model, info = cls.from_pretrained(
        snapshot,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    for key, complaint in (("missing_keys", "are missing"), ("mismatched_keys", "have another shape")):
        if names := sorted(str(name) for name in info.get(key, ())):
            raise TargetError(
                f"{snapshot}: {len(names)} weights of {type(model).__name__} {complaint}, first {names[0]}.",
                "The weights are not of this class: check architectures in config.json.",
            )
    moved: torch.nn.Module = model.to(device).eval()
    return moved
