"""Read the statement of a quantisation in a config: its place, method, bits, group size and number format."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mpsprobe.knowledge._methods import Method, methods

#: The bits of a weight that is not quantised.
PLAIN_BITS = 16.0
#: The name of a method that is not stated.
NO_METHOD = "(none)"
#: Keys of a config that state its quantisation, and the depth to which parts of a config are searched for them.
_STATEMENTS = frozenset({"quantization_config", "compression_config", "quantization"})
_DEEPEST = 3
#: Keys with the number format of stored weights, by method.
_KINDS_OF_NUMBERS = (
    "quant_type",
    "weights",
    "quant_algo",
    "global_quant_config",
    "data_type",
    "weights_dtype",
)


def parts(
    config: Mapping[str, Any], place: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a config and the configs of its parts, each with its path."""
    yield place, config
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in _STATEMENTS and depth < _DEEPEST:
            yield from parts(value, f"{place}.{key}" if place else key, depth + 1)


def method_of(stated: Mapping[str, Any]) -> tuple[Method | None, str]:
    name = stated.get("quant_method")
    if stated.get("load_in_4bit") or stated.get("load_in_8bit"):  # as in transformers' AutoQuantizationConfig
        name = "bitsandbytes_4bit" if stated.get("load_in_4bit") else "bitsandbytes_8bit"
    elif name is None and ("bits" in stated or "group_size" in stated):
        name = "mlx"
    elif name == "bitsandbytes":
        name = "bitsandbytes_8bit"
    elif name == "auto-round" or (name == "intel/auto-round"):
        name = "auto-round"
    found = next((one for one in methods() if name == one.id or name in one.names), None)
    return found, str(name or NO_METHOD)


def bits_of(stated: Mapping[str, Any], method: Method | None) -> float:
    for key in ("bits", "w_bit", "nbits"):
        if isinstance(stated.get(key), (int, float)) and not isinstance(stated.get(key), bool):
            return float(stated[key])
    for value in (stated.get("weights"), stated.get("quant_type"), stated.get("weight_format")):
        found = re.search(r"(?:int|float|fp|uint)(\d)", value) if isinstance(value, str) else None
        if found:
            return float(found[1])
    if method is not None and method.id == "torchao":
        found = re.search(r"(?:int|float)(\d)", str(stated.get("quant_type")), re.IGNORECASE)
        if found:
            return float(found[1])
    hqq = stated.get("quant_config")
    if isinstance(hqq, Mapping):
        inner = hqq.get("weight_quant_params", hqq)
        if isinstance(inner, Mapping) and isinstance(inner.get("nbits"), (int, float)):
            return float(inner["nbits"])
    algorithm = re.search(r"(?:FP|INT|W)(\d)", str(stated.get("quant_algo") or ""), re.IGNORECASE)
    if algorithm:
        return float(algorithm[1])
    groups = stated.get("config_groups")
    if isinstance(groups, Mapping):
        for group in groups.values():
            weights = group.get("weights") if isinstance(group, Mapping) else None
            if isinstance(weights, Mapping) and isinstance(weights.get("num_bits"), (int, float)):
                return float(weights["num_bits"])
    if method is not None and method.id == "aqlm":
        books, width, size = (
            stated.get(key) for key in ("num_codebooks", "nbits_per_codebook", "in_group_size")
        )
        if isinstance(books, int) and isinstance(width, int) and isinstance(size, int) and size:
            return books * width / size
    return method.default_bits if method is not None else PLAIN_BITS


def has_float8(stated: Mapping[str, Any]) -> bool:
    """Return whether a statement means float8: by its name, or as a group of 8-bit floating-point numbers."""
    groups = stated.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and (weights.get("type"), weights.get("num_bits")) == ("float", 8):
            return True
    named = {key: stated.get(key) for key in _KINDS_OF_NUMBERS}
    return re.search(r"float8|fp8|e4m3|e5m2", str(named), re.IGNORECASE) is not None


def group_of(stated: Mapping[str, Any], method: Method | None) -> int:
    block = stated.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(isinstance(one, int) for one in block):
        return int(block[0]) * int(block[1])
    groups = stated.get("config_groups")  # of compressed-tensors
    among = groups.values() if isinstance(groups, Mapping) else ()
    weights = [group.get("weights") for group in among if isinstance(group, Mapping)]
    hqq = stated.get("quant_config")
    inner = hqq.get("weight_quant_params", hqq) if isinstance(hqq, Mapping) else None
    for place in (stated, *weights, inner):
        for key in ("group_size", "q_group_size", "block_size", "bnb_4bit_blocksize"):
            value = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return method.group if method is not None else 0
