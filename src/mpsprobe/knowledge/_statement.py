"""Read how a config states its quantisation: the place, method, bits, group size and number format.

The methods by release and the packages that they need are in `data/quantisation.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml

DATA = Path(__file__).parent / "data" / "quantisation.toml"


class RequiredPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package that a method needs.

    Attributes:
        name: The name of the distribution.
        macos: `wheel` (installs on a Mac), `source` (must be built there) or `none` (cannot be installed).
        seen: The release that was examined, and what was found.
        install: The arguments of `pip install`, where the name does not suffice; else empty.
    """

    name: str
    macos: str
    seen: str
    install: str = ""


class Loading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a library does on a Mac, in a range of its releases, with checkpoints of a method.

    The head of `data/quantisation.toml` describes the fields.
    """

    releases: str
    outcome: str
    source: str
    needs: tuple[str, ...] = ()
    missing: str = ""
    alone: str = ""
    unread: str = ""
    packed_with: tuple[str, ...] = ()
    keeps_modules: bool = False
    missing_from: str = ""
    error: str = ""
    dtype: str = ""
    device: str = ""
    fix: str = ""
    then: str = ""
    note: str = ""
    where: dict[str, str] = {}


class RefusedStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values in a quantisation config for which a method's kernels raise on MPS, although the checkpoint loads.

    Attributes:
        key, values: The key of the quantisation config, and its values for which the kernels raise.
        error: The beginning of the exception.
        why: The reason, as a clause.
        source: The release and file where this was read.
    """

    key: str
    values: tuple[int, ...]
    error: str
    why: str
    source: str


class MlxReads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The conditions under which mlx-lm loads a checkpoint of a method as it is.

    Attributes:
        source: The release and file in which the conditions were read.
        bits: The numbers of bits that it accepts; empty for any.
        groups: The group sizes that it accepts; empty for any.
        formats: The accepted values of `format` (compressed-tensors) or `quant_algo` (ModelOpt); empty for any.
        unless: A condition that no config shows, as a phrase after "unless"; empty where there is none.
    """

    source: str
    bits: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    unless: str = ""


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method of quantisation; the head of `data/quantisation.toml` describes the fields."""

    id: str
    names: tuple[str, ...]
    title: str
    default_bits: float
    group: int
    scale_bits: float
    loading: tuple[Loading, ...] = ()
    diffusers: tuple[Loading, ...] = ()
    kernels: str = ""
    native: str = ""
    mlx: MlxReads | None = None
    experts_only: bool = False
    own_loader: str = ""
    refused: tuple[RefusedStatement, ...] = ()
    unstated: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    packages: tuple[RequiredPackage, ...]
    methods: tuple[Method, ...]


def methods() -> tuple[Method, ...]:
    """Return every method of the data file."""
    return _data().methods


def package(name: str) -> RequiredPackage | None:
    """Return the facts about a package, its name in any spelling that PEP 503 treats alike; None without data."""
    wanted = _canonical(name)
    return next((one for one in _data().packages if _canonical(one.name) == wanted), None)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _data() -> _File:
    return toml.load(DATA, _File)


#: The bits of a weight that is not quantised.
PLAIN_BITS = 16.0
#: The name of a method that is not stated.
NO_METHOD = "(none)"
#: Keys of a config that state its quantisation, the one that counts first.
_KEYS = ("quantization_config", "compression_config", "quantization")
#: Keys of a config that state its quantisation, and the depth to which parts of a config are searched for them.
_STATEMENTS = frozenset(_KEYS)
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


@dataclass(frozen=True)
class Quantised:
    """How a checkpoint is quantised, according to its config.

    Attributes:
        method: The method; None when the data has none of that name.
        name: The name of the method as the config spells it.
        bits: The bits of a quantised weight, without scales.
        stored_bits: The bits of a weight in the file, including its share of the scales; 16 where weights are
            stored plain and quantised while the model runs.
        kept: Names, or dotted parts of names, of the modules that are not quantised; one with `re:` is a pattern.
        stated_in: The place that states it, where that is not the top of config.json: a part of the config
            (`"text_config"`), a file beside it (`"quantize_config.json"`), or `"the names of its tensors"`.
        float8: Whether weights or activations are float8 tensors.
        key: The key of the config that states it.
        refused: The entry of the data according to which the method's kernels raise on MPS; None where none
            applies.
        mlx: Whether mlx-lm loads the checkpoint as it is, as far as the config shows.
        layers: Patterns of names of modules whose stored bits differ from the rest, each with those bits.
        words: The keys of the statement whose values are texts, with those; some releases load a method differently
            depending on one of them.
    """

    method: Method | None
    name: str
    bits: float
    stored_bits: float
    kept: tuple[str, ...] = ()
    stated_in: str = ""
    float8: bool = False
    mlx: bool = False
    key: str = "quantization_config"
    refused: RefusedStatement | None = None
    layers: tuple[tuple[str, float], ...] = ()
    words: tuple[tuple[str, str], ...] = ()

    @property
    def embeddings(self) -> bool:
        """Return whether embeddings are quantised too, which is so only in checkpoints of MLX."""
        return self.method is not None and self.method.native == "mlx"

    @property
    def title(self) -> str:
        """Return the method and its bits: `"GPTQ, 4 bits"`, or `"GPTQ, 4 bits and others"` where layers differ."""
        if self.name == NO_METHOD:
            return "quantised by a method that it does not name"
        title = self.method.title if self.method else self.name
        if "bits" in title:
            return title
        others = " and others" if any(round(bits - self.stored_bits, 3) for _, bits in self.layers) else ""
        return f"{title}, {self.bits:g} bits{others}"


def find(config: Mapping[str, Any]) -> Quantised | None:
    """Return how a checkpoint is quantised according to its `config.json`; None where the config states nothing.

    The first of the keys `quantization_config`, `compression_config` and MLX's `quantization` counts, in the config
    itself or, after it, in any part of it down to three levels. An empty `quantization_config` at the top counts as
    a method that is not named.
    """
    for place, part in parts(config):
        named = "quantization_config" in part and not place
        stated = next((part[key] for key in _KEYS if part.get(key)), None)
        if isinstance(stated, Mapping) and stated:
            key = next(one for one in _KEYS if part.get(one))
            return replace(of_statement(stated, place), key=key)
        if stated or named:  # transformers reads `quant_method` from it even if it is empty
            return Quantised(None, NO_METHOD, PLAIN_BITS, PLAIN_BITS, stated_in=place)
    return None


def of_statement(stated: Mapping[str, Any], place: str = "", method: str = "") -> Quantised:
    """Return how a checkpoint is quantised according to one JSON object that describes it.

    Args:
        stated: The object under `quantization_config`, or the content of a file beside config.json.
        place: The place of the object; see `Quantised.stated_in`.
        method: The method's id, where the object does not name one.
    """
    known, name = method_of({"quant_method": method, **stated} if method else stated)
    bits = bits_of(stated, known)
    group = group_of(stated, known)
    online = stated.get("quantization_mode") == "online" and stated.get("linear_class") == "autobitlinear"
    scale = scale_bits_of(stated, known) / group if known is not None and group else 0.0
    kept = (
        stated.get("modules_to_not_convert")
        or stated.get("ignored_layers")
        or stated.get("ignore")
        or stated.get("llm_int8_skip_modules")
        or stated.get("exclude_modules")
        or stated.get("linear_weights_not_to_quantize")
        or ()
    )
    kept = tuple(one for one in kept if isinstance(one, str)) if isinstance(kept, (list, tuple)) else ()
    reads = known is not None and _mlx_reads(known, stated, bits, group)
    refused = None
    if known is not None:
        refused = next((one for one in known.refused if stated.get(one.key) in one.values), None)
    return Quantised(
        known,
        name,
        bits,
        PLAIN_BITS if online else bits + scale,  # BitNet: plain weights, quantised in every forward pass
        kept
        or (() if stated.get("lm_head") is True or (known is not None and known.native) else ("lm_head",)),
        place,
        has_float8(stated),
        reads,
        refused=refused,
        layers=tuple(_by_layer(stated, known)) if known is not None else (),
        words=tuple((key, value) for key, value in stated.items() if isinstance(value, str)),
    )


def _by_layer(stated: Mapping[str, Any], method: Method) -> Iterator[tuple[str, float]]:
    """Yield patterns of names of modules with their stored bits, where a statement gives some layers other bits.

    The first pattern that matches a name decides. MLX lists modules beside its sizes, AutoRound in `extra_config`,
    ModelOpt in `quantized_layers`; the keys of GPTQModel's `dynamic` and the targets of compressed-tensors are
    regular expressions. One that does not compile is skipped.
    """
    for source in (
        stated if method.native == "mlx" else {},
        stated.get("extra_config"),
        stated.get("quantized_layers"),
    ):
        for name, value in source.items() if isinstance(source, Mapping) else ():
            if isinstance(value, Mapping) and value.keys() & {"bits", "quant_algo"}:
                yield rf"(^|\.){re.escape(name)}($|\.)", _stored({**_sizes(stated), **value}, method)
            elif value is False and "." in name:
                yield rf"(^|\.){re.escape(name)}($|\.)", PLAIN_BITS
    dynamic = stated.get("dynamic")
    for pattern, value in dynamic.items() if isinstance(dynamic, Mapping) else ():
        if isinstance(value, Mapping) and _compiles(pattern[2:] if pattern[:2] in ("-:", "+:") else pattern):
            plain = pattern.startswith("-:")
            bits = PLAIN_BITS if plain else _stored({**_sizes(stated), **value}, method)
            yield pattern[2:] if pattern[:2] in ("-:", "+:") else pattern, bits
    groups = stated.get("config_groups")
    named = list(groups.values()) if isinstance(groups, Mapping) and len(groups) > 1 else []
    for group in named:
        targets = group.get("targets") if isinstance(group, Mapping) else None
        for target in targets if isinstance(targets, list) else ():
            expression = target.removeprefix("re:") if isinstance(target, str) else ""
            if expression and expression != "Linear" and _compiles(expression):
                alone = {**stated, "config_groups": {"group": group}, "format": group.get("format")}
                exact = rf"(^|\.){re.escape(expression)}($|\.)"
                yield expression if target.startswith("re:") else exact, _stored(alone, method)


def _sizes(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {key: stated[key] for key in ("bits", "group_size", "mode") if key in stated}


def _stored(stated: Mapping[str, Any], method: Method) -> float:
    """Return the stored bits of a weight, including its share of the scales, according to one statement of sizes."""
    bits, group = bits_of(stated, method), group_of(stated, method)
    return bits + (scale_bits_of(stated, method) / group if group and bits < PLAIN_BITS else 0.0)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _mlx_reads(method: Method, stated: Mapping[str, Any], bits: float, group: int) -> bool:
    """Return whether mlx-lm loads the checkpoint as it is; False where that also depends on what no config shows."""
    reads = method.mlx
    if method.native == "mlx":
        return True
    if reads is None or reads.unless:
        return False
    inner = stated.get("quantization")
    form = stated.get("format") or (inner if isinstance(inner, Mapping) else stated).get("quant_algo")
    return (
        (not reads.bits or bits in reads.bits)
        and (not reads.groups or group in reads.groups)
        and (not reads.formats or form in reads.formats)
    )


def weight_bytes(quantised: Quantised, plain_bytes: int, linear: Mapping[str, tuple[int, int]]) -> int:
    """Return the size of the weights in bytes as the checkpoint stores them.

    Args:
        quantised: How the checkpoint is quantised.
        plain_bytes: The size of all parameters and buffers in bytes without quantisation.
        linear: The number of elements and bytes, without quantisation, of the weights of linear layers by module
            name; for a method that quantises only experts, of all expert weights.
    """
    kept = [re.escape(part.removeprefix("re:").removesuffix(".weight")) for part in quantised.kept]
    for name, (elements, nbytes) in linear.items():
        if any(re.search(rf"(^|\.){part}($|\.)", name) for part in kept):
            continue
        bits = next(
            (bits for pattern, bits in quantised.layers if re.search(pattern, name)), quantised.stored_bits
        )
        if bits < PLAIN_BITS:
            plain_bytes += round(elements * bits / 8) - nbytes
    return plain_bytes


# ------------------------------------------------------------------------------------------- parts of a statement


def parts(
    config: Mapping[str, Any], place: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a config and the objects in it, down to three levels, each with its dotted path (first an empty one)."""
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
    """Return whether weights, scales or activations are float8.

    They are where the number format that the config names is a float8 one, where it is NVFP4 (whose scales are
    float8), and where a group of compressed-tensors has floating-point activations, or floating-point weights that
    have 8 bits or the strategy `tensor_group`.
    """
    if re.match(r"nvfp4", str(stated.get("format") or stated.get("quant_algo") or ""), re.IGNORECASE):
        return True
    for weights, activations in _groups(stated):
        if weights.get("type") == "float" and (
            weights.get("num_bits") == 8 or weights.get("strategy") == "tensor_group"
        ):
            return True
        if activations.get("type") == "float":
            return True
    named = {key: stated.get(key) for key in _KINDS_OF_NUMBERS}
    return re.search(r"float8|fp8|e4m3|e5m2", str(named), re.IGNORECASE) is not None


def _groups(stated: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the settings of weights and input activations of each compressed-tensors group; `{}` for missing ones."""
    groups = stated.get("config_groups")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping):
            pair = [group.get("weights"), group.get("input_activations")]
            weights, activations = (one if isinstance(one, Mapping) else {} for one in pair)
            yield weights, activations


def scale_bits_of(stated: Mapping[str, Any], method: Method) -> float:
    """Return the extra bits that each group of weights stores: its scale, and its zero point where it has one."""
    if stated.get("bnb_4bit_use_double_quant"):  # scales of 8 bits, 256 of which share one of 32
        return 8 + 32 / 256
    if re.match(r"mxfp|nvfp", str(stated.get("mode"))):  # MLX: a scale of 8 bits, and no bias
        return 8.0
    for weights, _ in _groups(stated):
        if weights.get("type") == "float":
            return 8.0 if weights.get("num_bits") == 4 else 16.0
        if weights.get("symmetric"):
            return 16.0
    return method.scale_bits


def group_of(stated: Mapping[str, Any], method: Method | None) -> int:
    block = stated.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(isinstance(one, int) for one in block):
        return int(block[0]) * int(block[1])
    weights = [weights for weights, _ in _groups(stated)]
    if any(one.get("strategy") in ("tensor", "channel") for one in weights):
        return 0
    hqq = stated.get("quant_config")
    inner = hqq.get("weight_quant_params", hqq) if isinstance(hqq, Mapping) else None
    for place in (stated, *weights, inner):
        for key in ("group_size", "q_group_size", "block_size", "bnb_4bit_blocksize"):
            value = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return method.group if method is not None else 0
