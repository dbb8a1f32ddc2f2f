"""Find the quantisation of a model folder: in its config, an older tool's file, or the names of its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpsprobe import toml
from mpsprobe.errors import DataError
from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import Quantised
from mpsprobe.models.hub import snapshot
from mpsprobe.models.hub.snapshot import SnapshotError, StoredTensor

#: Files beside config.json that state a quantisation, with the method of their tool: AutoGPTQ, AutoAWQ,
#: NVIDIA's ModelOpt. transformers reads none of them.
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
#: Keys of which such a file holds one; a file of the same name may come from another tool.
_STATED = ("bits", "w_bit", "quant_algo")
#: The file of optimum-quanto's own `save_pretrained`: what each module's weights are stored as.
_QUANTO_MAP = "quanto_qmap.json"
_FROM_NAMES = "the names of its tensors"


@dataclass(frozen=True)
class QuantisedPart:
    """One model of a target whose weights are quantised, and how.

    Attributes:
        name: The name of the part of a pipeline, such as `"transformer"`; empty for a target that is one model.
        library: The library whose `from_pretrained` loads it: `"transformers"` or `"diffusers"`.
        how: The quantisation.
    """

    name: str
    library: str
    how: Quantised


def of_folder(folder: Path, config: Mapping[str, Any]) -> Quantised | None:
    """Return how the weights of a model folder are quantised; None where nothing shows that they are.

    Its config is read first, then the files of other tools beside it, then the names of its tensors. A config for
    Quanto beside plain weights is marked so, because they are quantised while they load.

    Args:
        folder: The folder of the model, which may lack weights.
        config: The content of its `config.json`.
    """
    found = quantisation.find(config)
    if found is not None and found.name == "quanto" and _stores_plain(folder):
        found = replace(found, words=(*found.words, ("stored", "plain")))
    return found or _beside(folder) or _of_tensors(folder)


def _stores_plain(folder: Path) -> bool:
    """Return whether a folder holds safetensors and none of their weights is packed."""
    return any(folder.glob("*.safetensors")) and _of_tensors(folder) is None


def _beside(folder: Path) -> Quantised | None:
    if (folder / _QUANTO_MAP).is_file() and (weights := _quanto_weights(folder / _QUANTO_MAP)):
        return quantisation.of_statement({"weights": weights}, _QUANTO_MAP, "quanto")
    for name, method in SIDE_FILES.items():
        if not (folder / name).is_file():
            continue
        try:
            stated = toml.json_object(folder / name)
        except DataError:  # the file is not a readable config, so the tensors are examined next
            continue
        inner = stated.get("quantization", stated)
        if isinstance(inner, Mapping) and any(inner.get(key) is not None for key in _STATED):
            return quantisation.of_statement(inner, name, method)
    return None


def _quanto_weights(path: Path) -> str:
    """Return the commonest kind of weights in Quanto's map of modules, such as `"int4"`; empty where it states none."""
    try:
        stated = toml.json_object(path)
    except DataError:
        return ""
    kinds = Counter(one.get("weights") for one in stated.values() if isinstance(one, Mapping))
    kinds.pop("none", None)
    most = kinds.most_common(1)
    return str(most[0][0]).removeprefix("q") if most else ""


def _of_tensors(folder: Path) -> Quantised | None:
    """Return the quantisation that the first packed weight shows by its name, dtype and scales; None without one."""
    try:
        tensors = {
            name: tensor
            for file in sorted(folder.glob("*.safetensors"))
            for name, tensor in snapshot.read_header(file).items()
        }
    except (OSError, SnapshotError):  # phase 3 reports what is wrong with a file
        return None
    for name, tensor in tensors.items():
        found = _packed_as(name, tensor, tensors)
        if found is not None:
            method, bits = found
            return quantisation.of_statement({"bits": bits}, _FROM_NAMES, method)
    return None


def _packed_as(
    name: str, tensor: StoredTensor, tensors: Mapping[str, StoredTensor]
) -> tuple[str, float] | None:
    """Return the method and bits of a packed weight; None for a tensor that shows no packing."""
    stem, _, last = name.rpartition(".")
    if last == "qweight":
        return ("gptq" if f"{stem}.g_idx" in tensors else "awq"), 4
    if last.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in tensors:
        return "mxfp4", 4
    # below 8 bits the packed tensor is itself of a class with data: `weight._data._data`
    if last == "_data" and f"{stem.removesuffix('._data')}._scale" in tensors:
        return "quanto", 4 if tensor.dtype == "uint8" else 8
    if last == "W_q" and f"{stem}.scale" in tensors:
        return "hqq", 4
    if last != "weight":
        return None
    if f"{name}.absmax" in tensors:
        return "bitsandbytes_4bit", 4
    if f"{stem}.SCB" in tensors:
        return "bitsandbytes_8bit", 8
    if tensor.dtype == "uint32" and f"{stem}.scales" in tensors:
        return "mlx", 4
    if tensor.dtype == "uint8" and f"{stem}.weight_scale" in tensors:
        return "modelopt", 4
    scaled = any(
        f"{stem}.{scale}" in tensors for scale in ("weight_scale", "weight_scale_inv", "scale_weight")
    )
    return ("fp8", 8) if tensor.dtype.startswith("float8") and scaled else None
