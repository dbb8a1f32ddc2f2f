"""Quantised checkpoints on a Mac: what transformers does with each method when it loads one.

Data: `data/quantisation.toml`, read in transformers' wheels, release by release.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe import toml

DATA = Path(__file__).parent / "data" / "quantisation.toml"
#: Version of an installed distribution by its name; None when it is not installed.
Installed = Callable[[str], "str | None"]
#: Bits of a weight that is not quantised.
_PLAIN_BITS = 16.0


class Outcome(str, enum.Enum):
    """What loading a quantised checkpoint leads to."""

    RAISES = "raises"
    PACKED = "packed"
    DEQUANTISES = "dequantises"
    UNKNOWN = "unknown"


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package that a method needs.

    Attributes:
        name: of the distribution.
        macos: `wheel` (installs on a Mac), `source` (is built there) or `none` (cannot be installed).
        seen: the release that was looked at, and what was found.
        install: arguments of pip where they are more than the name.
    """

    name: str
    macos: str
    seen: str
    install: str = ""


class Loading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What some releases of transformers do with a method on a Mac; fields as in the data file."""

    transformers: str
    outcome: str
    source: str
    needs: tuple[str, ...] = ()
    missing: str = ""
    missing_from: str = ""
    error: str = ""
    dtype: str = ""
    device: str = ""
    fix: str = ""
    then: str = ""
    note: str = ""


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A method of quantisation; fields as in the data file."""

    id: str
    names: tuple[str, ...]
    title: str
    default_bits: float
    group: int
    scale_bits: float
    loading: tuple[Loading, ...]
    kernels: str = ""
    native: str = ""
    experts_only: bool = False


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    packages: tuple[Package, ...]
    methods: tuple[Method, ...]


@dataclass(frozen=True)
class Quantised:
    """How a checkpoint is quantised, as its config states it.

    Attributes:
        method: the method; None for one that the data does not know.
        name: as the config spells it.
        bits: of a quantised weight, without scales.
        stored_bits: of a quantised weight, with its share of the scales.
        kept: parts of the names of modules that are not quantised.
    """

    method: Method | None
    name: str
    bits: float
    stored_bits: float
    kept: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The method and its bits: `"GPTQ, 4 bits"`."""
        title = self.method.title if self.method else self.name
        return title if "bits" in title else f"{title}, {self.bits:g} bits"


@dataclass(frozen=True)
class Answer:
    """What `from_pretrained` does with a quantised checkpoint on a Mac.

    Attributes:
        quantised: how it is quantised.
        outcome: what loading leads to, with the packages that are installed.
        error: the exception that loading raises; empty when it does not raise.
        fix: what helps; empty when nothing is known to help transformers.
        dense: the weights take the memory of plain ones, once they are loaded.
        dtype: what the weights are dequantised to; `"asked"` for the dtype asked for; empty when they are not.
        sentences: what a user should know, whole sentences.
    """

    quantised: Quantised
    outcome: Outcome
    error: str = ""
    fix: str = ""
    dense: bool = False
    dtype: str = ""
    sentences: tuple[str, ...] = ()

    @property
    def raises(self) -> bool:
        """Whether loading ends with an exception."""
        return self.outcome is Outcome.RAISES


def methods() -> tuple[Method, ...]:
    """Return every method of the data file."""
    return _data().methods


def package(name: str) -> Package | None:
    """Return what is known of a package by its name; None for one that the data does not know."""
    wanted = _canonical(name)
    return next((one for one in _data().packages if _canonical(one.name) == wanted), None)


def find(config: Mapping[str, Any]) -> Quantised | None:
    """Return how a `config.json` says that its checkpoint is quantised; None where it says nothing.

    The key `quantization_config` counts, of the config itself or of its text part, and MLX's own `quantization`.
    """
    stated = _stated(config)
    if stated is None:
        return None
    method, name = _method(stated)
    bits = _bits(stated, method)
    group = _group(stated, method)
    scale = method.scale_bits / group if method is not None and group else 0.0
    kept = (
        stated.get("modules_to_not_convert")
        or stated.get("ignored_layers")
        or stated.get("ignore")
        or stated.get("llm_int8_skip_modules")
        or ()
    )
    kept = tuple(one for one in kept if isinstance(one, str)) if isinstance(kept, (list, tuple)) else ()
    return Quantised(method, name, bits, bits + scale, kept or ("lm_head",))


def answer(quantised: Quantised, transformers: str, installed: Installed | None = None) -> Answer:
    """Return what loading the checkpoint does on a Mac.

    Args:
        quantised: see `find`.
        transformers: its version.
        installed: looks an installed distribution up; None for those of this environment.
    """
    method = quantised.method
    if method is None:
        return Answer(
            quantised,
            Outcome.UNKNOWN,
            sentences=(
                f"The config names the quantisation method {quantised.name!r}, of which nothing is known here.",
                "transformers skips a method that it does not know: the stored tensors then fit no plain weight.",
            ),
        )
    loading = _loading(method, transformers)
    if loading is None:
        return Answer(
            quantised,
            Outcome.RAISES,
            error=f"ValueError: Unknown quantization type, got {quantised.name or method.id}",
            fix=f"use transformers {_oldest(method)} or later" if _oldest(method) else "",
            sentences=(f"transformers {transformers} does not know {method.title}.",),
        )
    if loading.outcome == Outcome.RAISES.value:
        return _raising(quantised, loading, transformers, loading.error)
    look = installed or _installed
    missing = [one for one in map(Requirement, loading.needs) if not _has(one, look)]
    early = loading.missing_from and Version(transformers) < Version(loading.missing_from)
    if missing and loading.missing and not early:
        return _lacking(quantised, loading, missing)
    return Answer(
        quantised,
        Outcome(loading.outcome),
        dense=loading.outcome == Outcome.DEQUANTISES.value,
        dtype=loading.dtype,
        sentences=tuple(_loaded(quantised, loading)),
    )


def weight_bytes(quantised: Quantised, plain_bytes: int, linear: Mapping[str, tuple[int, int]]) -> int:
    """Return the bytes of the weights as the checkpoint stores them.

    Args:
        quantised: how it is quantised.
        plain_bytes: all parameters and buffers without quantisation.
        linear: elements and bytes, without quantisation, of the weights of linear layers by module name; of all
            expert weights for a method that quantises only those.
    """
    for name, (elements, nbytes) in linear.items():
        if not any(
            re.search(rf"(^|\.){re.escape(part.removeprefix('re:'))}($|\.)", name) for part in quantised.kept
        ):
            plain_bytes += round(elements * quantised.stored_bits / 8) - nbytes
    return plain_bytes


def other_routes(quantised: Quantised) -> list[str]:
    """Return what computes with such bits natively on a Mac, whole sentences."""
    method = quantised.method
    if method is not None and method.native == "mlx":
        return [
            "MLX loads this checkpoint as it is: python -m mlx_lm generate --model MODEL (pip install mlx-lm)."
        ]
    if method is not None and method.native == "llama.cpp":
        return ["llama.cpp runs this file as it is, on the GPU: llama-cli -m FILE (brew install llama.cpp)."]
    bits = 4 if quantised.bits <= 4 else 8
    return [
        f"MLX computes with {bits}-bit weights on the GPU: convert the model before it was quantised, "
        f"python -m mlx_lm convert --hf-path ORIGINAL -q --q-bits {bits}; or look for it in mlx-community on the Hub.",
        f"llama.cpp does too: a GGUF file of the model, such as {'Q4_K_M' if bits == 4 else 'Q8_0'}.",
    ]


# ------------------------------------------------------------------------------------------------------- config


def _stated(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of a config that states its quantisation."""
    for part in (config, config.get("text_config")):
        if not isinstance(part, Mapping):
            continue
        stated = part.get("quantization_config") or part.get("compression_config")
        own = part.get("quantization")
        if isinstance(stated, Mapping) and stated:
            return stated
        if isinstance(own, Mapping) and own:
            return own
    return None


def _method(stated: Mapping[str, Any]) -> tuple[Method | None, str]:
    name = stated.get("quant_method")
    if stated.get("load_in_4bit") or stated.get("load_in_8bit"):  # as transformers' AutoQuantizationConfig
        name = "bitsandbytes_4bit" if stated.get("load_in_4bit") else "bitsandbytes_8bit"
    elif name is None and ("bits" in stated or "group_size" in stated):
        name = "mlx"
    elif name == "bitsandbytes":
        name = "bitsandbytes_8bit"
    elif name == "auto-round" or (name == "intel/auto-round"):
        name = "auto-round"
    found = next((one for one in methods() if name == one.id or name in one.names), None)
    return found, str(name or "(none)")


def _bits(stated: Mapping[str, Any], method: Method | None) -> float:
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
    return method.default_bits if method is not None else _PLAIN_BITS


def _group(stated: Mapping[str, Any], method: Method | None) -> int:
    block = stated.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(isinstance(one, int) for one in block):
        return int(block[0]) * int(block[1])
    for key in ("group_size", "q_group_size", "block_size", "bnb_4bit_blocksize"):
        value = stated.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return method.group if method is not None else 0


# ------------------------------------------------------------------------------------------------------ loading


def _loading(method: Method, transformers: str) -> Loading | None:
    try:
        version = Version(transformers)
    except InvalidVersion:
        return None
    return next(
        (one for one in method.loading if SpecifierSet(one.transformers).contains(version, prereleases=True)),
        None,
    )


def _oldest(method: Method) -> str:
    """The release of transformers from which on the method is known, where the data states one."""
    stated = [
        spec for one in method.loading for spec in SpecifierSet(one.transformers) if spec.operator == ">="
    ]
    return min((spec.version for spec in stated), key=Version, default="")


def _raising(quantised: Quantised, loading: Loading, transformers: str, error: str) -> Answer:
    sentences = [f"Loading {quantised.title} with transformers {transformers} raises on every Mac: {error}"]
    if loading.note:
        sentences.append(loading.note)
    return Answer(
        quantised,
        Outcome.RAISES,
        error,
        loading.fix,
        loading.then == Outcome.DEQUANTISES.value,
        sentences=tuple(sentences),
    )


def _lacking(quantised: Quantised, loading: Loading, missing: list[Requirement]) -> Answer:
    known = [(one, package(one.name)) for one in missing]
    stuck = [found for _, found in known if found is not None and found.macos == "none"]
    names = ", ".join(one.name for one in missing)
    sentences = [f"Loading {quantised.title} needs {names}: without, it raises {loading.missing}"]
    sentences += [f"{found.name}: {found.seen}." for _, found in known if found is not None]
    fix = ""
    if not stuck:
        plain = [str(one) for one, found in known if found is None or not found.install]
        fix = f"python -m pip install {' '.join(map(shlex.quote, plain))}" if plain else ""
        for one, found in known:
            if found is not None and found.install:
                extra = found.install.removeprefix(found.name).strip()
                command = f"python -m pip install {shlex.quote(str(one))} {extra}".rstrip()
                fix = f"{fix} && {command}" if fix else command
        then = "Then its weights stay packed" if loading.outcome == "packed" else "Then it is dequantised"
        sentences.append(f"{then}{f': {_kernels(quantised)}' if _kernels(quantised) else ''}.")
        if loading.note:
            sentences.append(loading.note)
    dense = loading.outcome == Outcome.DEQUANTISES.value
    return Answer(quantised, Outcome.RAISES, loading.missing, fix, dense, sentences=tuple(sentences))


def _loaded(quantised: Quantised, loading: Loading) -> list[str]:
    if loading.outcome == Outcome.DEQUANTISES.value:
        into = "the dtype asked for" if loading.dtype == "asked" else loading.dtype
        sentences = [
            f"transformers dequantises {quantised.title} to {into} when it loads it on a Mac: the weights take "
            "the memory of that dtype, not that of the checkpoint."
        ]
    else:
        sentences = [
            f"The weights stay packed ({quantised.stored_bits:.3g} bits each with their scales)"
            f"{f': {_kernels(quantised)}' if _kernels(quantised) else ''}. Ops of that path are not predicted."
        ]
    if loading.device == "cpu" and "device_map" not in loading.note:
        sentences.append("Without a device_map the weights arrive on the CPU.")
    if loading.note:
        sentences.append(loading.note)
    return sentences


def _kernels(quantised: Quantised) -> str:
    return quantised.method.kernels if quantised.method is not None else ""


def _has(requirement: Requirement, installed: Installed) -> bool:
    found = installed(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _data() -> _File:
    return toml.load(DATA, _File)
