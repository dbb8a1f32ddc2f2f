"""The folder of the vision-language model that `vlm_name_or_path` names: config, tokenizer and processor.

The target's code reads it by that name from the Hub when it makes a config, and again when it makes a model. `find`
looks in the target's folder first, then on the Hub; where neither has it, it makes a substitute with the same files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mpsprobe.errors import MpsprobeError
from mpsprobe.models.alpamayo import processor, published
from mpsprobe.models.hub.cache import cache_dir, made_once
from mpsprobe.models.hub.snapshot import read_config
from mpsprobe.models.weightless import config_only

#: The version of `write`, raised when it writes something else for the same config.
_RECIPE = 3
_STAND_IN = (
    "The tokenizer stands in for that of {repo}, which could not be fetched: as many tokens, the same special ones, "
    "other words."
)
_NO_VIDEO = "torchvision is not installed: images are processed by Qwen2-VL's processor without it."


@dataclass(frozen=True)
class Backbone:
    """A vision-language model's files without its weights.

    Attributes:
        folder: The folder with config.json, tokenizer and processor.
        notes: Sentences for the report about files that were replaced.
        stand_in: Whether the tokenizer is a substitute for the target's own.
    """

    folder: Path
    notes: tuple[str, ...] = ()
    stand_in: bool = False


def find(name: str, target: Path, layers: int | None = None) -> Backbone:
    """Return the files of the model that `vlm_name_or_path` names, or substitutes for them.

    They come from the target's folder or else from the Hub. When the Hub has none either, config and tokenizer are
    substitutes. A cached copy is made where layers are left out, or where torchvision is missing and the files came
    from the Hub.

    Args:
        name: A repo id, or a folder inside the target's.
        target: The folder of the target.
        layers: The number of text layers to keep, with as many vision layers as feed them; None for all.

    Raises:
        ConfigError: The config.json in the target's folder is missing or malformed, and `layers` is given.
    """
    own = target / name
    if own.is_dir():
        marked = (own / processor.STAND_IN).is_file()
        notes = (_STAND_IN.format(repo=published.VLM_REPO),) if marked else ()
        if layers is None:
            return Backbone(own, notes, marked)
        return Backbone(_ensure(shrunk(read_config(own), layers), own), notes, marked)
    try:
        fetched = config_only.fetch(name)
        config = read_config(fetched)
    except MpsprobeError:
        config = published.vlm_config()
        made = _ensure(config if layers is None else shrunk(config, layers), None)
        return Backbone(made, (_STAND_IN.format(repo=name),), True)
    if find_spec("torchvision") is not None and layers is None:
        return Backbone(fetched)
    notes = () if find_spec("torchvision") is not None else (_NO_VIDEO,)
    return Backbone(_ensure(config if layers is None else shrunk(config, layers), fetched), notes)


def write(folder: Path, config: dict[str, Any], source: Path | None = None) -> None:
    """Write config, tokenizer and processor into the empty `folder`.

    Args:
        folder: The folder to write to.
        config: The config of the vision-language model.
        source: A folder whose tokenizer (and, with torchvision, processor) is copied; None to write substitutes.
    """
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if source is None:
        processor.write(folder)
        return
    for file in sorted(source.iterdir()):
        if file.name in (*config_only.SMALL_FILES, processor.STAND_IN):
            shutil.copyfile(file, folder / file.name)
    if find_spec("torchvision") is None:
        processor.write_settings(folder)


def shrunk(config: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return a config of the same model with fewer layers.

    The vision tower keeps as many layers as feed a text layer (deepstack), and the text model at least that many.
    """
    text, vision = config["text_config"], config["vision_config"]
    taps = len(vision["deepstack_visual_indexes"])
    kept = max(layers, taps)
    return {
        **config,
        "text_config": {**text, "num_hidden_layers": kept},
        "vision_config": {**vision, "depth": taps, "deepstack_visual_indexes": list(range(taps))},
    }


def _ensure(config: dict[str, Any], source: Path | None) -> Path:
    """Return the cached folder that `write` makes of this config and source, creating it if needed."""
    with_video = find_spec("torchvision") is not None
    recipe = json.dumps([_RECIPE, config, str(source), with_video], sort_keys=True)
    folder = cache_dir() / f"alpamayo-vlm-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    return made_once(folder, lambda building: write(building, config, source))
