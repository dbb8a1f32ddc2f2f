"""Quantised checkpoints on a Mac: what transformers and diffusers do with each method when they load one.

The data in `data/quantisation.toml` was read in their wheels, release by release.
"""

from __future__ import annotations

import enum
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.knowledge._methods import Loading, Method, methods, package
from mpsprobe.knowledge._statement import (
    NO_METHOD,
    PLAIN_BITS,
    bits_of,
    group_of,
    has_float8,
    method_of,
    parts,
)

__all__ = [
    "LoadingAnswer",
    "Outcome",
    "Quantised",
    "answer",
    "find",
    "joined",
    "methods",
    "of_statement",
    "package",
]

#: A function that returns the version of an installed distribution by its name; None when it is not installed.
Installed = Callable[[str], "str | None"]
#: The release of torch from which on MPS supports float8 tensors, and the error of earlier ones.
_FLOAT8 = "2.15"
_NO_FLOAT8 = (
    "TypeError: Trying to convert Float8_e4m3fn to the MPS backend "
    "but it does not have support for that dtype."
)


class Outcome(str, enum.Enum):
    """The outcome of loading a quantised checkpoint."""

    RAISES = "raises"
    PACKED = "packed"
    DEQUANTISES = "dequantises"
    IGNORED = "ignored"  #: nothing raises, but the packed weights or their scales are left out
    UNKNOWN = "unknown"


#: The outcomes from worst to best.
_WORST = (Outcome.RAISES, Outcome.IGNORED, Outcome.UNKNOWN, Outcome.DEQUANTISES, Outcome.PACKED)


@dataclass(frozen=True)
class Quantised:
    """How a checkpoint is quantised, according to its config.

    Attributes:
        method: The method; None for one that the data does not have.
        name: The name of the method as the config spells it.
        bits: The bits of a quantised weight, without scales.
        stored_bits: The bits of a quantised weight, including its share of the scales.
        kept: Parts of the names of modules that are not quantised.
        stated_in: The place that states it, where that is not the top of config.json: a part of the config
            (`"text_config"`), a file beside it (`"quantize_config.json"`), or `"the names of its tensors"`.
        float8: Whether weights or activations are float8 tensors.
        mlx: Whether mlx-lm loads the checkpoint as it is, as far as the config shows.
    """

    method: Method | None
    name: str
    bits: float
    stored_bits: float
    kept: tuple[str, ...] = ()
    stated_in: str = ""
    float8: bool = False
    mlx: bool = False

    @property
    def title(self) -> str:
        """Return the method and its bits: `"GPTQ, 4 bits"`."""
        if self.name == NO_METHOD:
            return "quantised by a method that it does not name"
        title = self.method.title if self.method else self.name
        return title if "bits" in title else f"{title}, {self.bits:g} bits"


@dataclass(frozen=True)
class LoadingAnswer:
    """What `from_pretrained` does with a quantised checkpoint on a Mac.

    Attributes:
        quantised: How it is quantised.
        outcome: The outcome of loading with the installed packages.
        error: The exception that loading raises; empty when it does not raise.
        fix: The fix; empty when none is known for transformers.
        dense: Whether the loaded weights take as much memory as plain ones.
        dtype: The dtype of dequantised weights; `"asked"` for the requested dtype; empty when they are not
            dequantised.
        sentences: What a user should know, in whole sentences.
        part: The part of a pipeline that the checkpoint belongs to; empty for a target that is one model.
    """

    quantised: Quantised
    outcome: Outcome
    error: str = ""
    fix: str = ""
    dense: bool = False
    dtype: str = ""
    sentences: tuple[str, ...] = ()
    part: str = ""

    @property
    def title(self) -> str:
        """Return the quantisation, with the part of a pipeline that has it: `"transformer (GPTQ, 4 bits)"`."""
        return f"{self.part} ({self.quantised.title})" if self.part else self.quantised.title

    @property
    def routes(self) -> list[str]:
        """Return sentences on what computes with such bits natively on a Mac; empty for parts of pipelines."""
        return [] if self.part else other_routes(self.quantised)

    @property
    def raises(self) -> bool:
        """Return whether loading ends with an exception."""
        return self.outcome is Outcome.RAISES

    @property
    def fails(self) -> bool:
        """Return whether loading yields no usable model: it raises, or the weights are not those of the checkpoint."""
        return self.outcome in (Outcome.RAISES, Outcome.IGNORED, Outcome.UNKNOWN)


def find(config: Mapping[str, Any]) -> Quantised | None:
    """Return how a checkpoint is quantised according to its `config.json`; None where the config states nothing.

    The keys `quantization_config` and `compression_config` count, in the config itself or in any part of it, and
    MLX's own `quantization`.
    """
    for place, part in parts(config):
        named = "quantization_config" in part and not place
        stated = part.get("quantization_config") or part.get("compression_config") or part.get("quantization")
        if isinstance(stated, Mapping) and stated:
            return of_statement(stated, place)
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
    scale = known.scale_bits / group if known is not None and group else 0.0
    kept = (
        stated.get("modules_to_not_convert")
        or stated.get("ignored_layers")
        or stated.get("ignore")
        or stated.get("llm_int8_skip_modules")
        or stated.get("exclude_modules")
        or ()
    )
    kept = tuple(one for one in kept if isinstance(one, str)) if isinstance(kept, (list, tuple)) else ()
    reads = known is not None and _mlx_reads(known, stated, bits, group)
    return Quantised(known, name, bits, bits + scale, kept or ("lm_head",), place, has_float8(stated), reads)


def _mlx_reads(method: Method, stated: Mapping[str, Any], bits: float, group: int) -> bool:
    """Return whether mlx-lm loads the checkpoint as it is; conditions that no config shows count as unmet."""
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


def answer(
    quantised: Quantised,
    version: str,
    installed: Installed | None = None,
    library: str = "transformers",
    torch: str | None = None,
) -> LoadingAnswer:
    """Return what loading the checkpoint does on a Mac.

    Args:
        quantised: How it is quantised; see `find`.
        version: The version of the library.
        installed: A function that looks up an installed distribution; None for those of this environment.
        library: The library whose `from_pretrained` loads it: `"transformers"` or `"diffusers"`.
        torch: The torch release of the target Mac, which decides about float8; None where unknown.
    """
    method = quantised.method
    if quantised.stated_in and not _is_read(quantised.stated_in, version, library):
        return _unread(quantised, version, library)
    if quantised.name == NO_METHOD:
        text = "the quantization config names no quant_method"
        return _raising(quantised, f"{library} {version}", f"ValueError or AttributeError: {text}")
    loading = _loading(method, version, library) if method is not None else None
    if loading is None:
        return _unknown_to(quantised, version, library)
    if loading.outcome == Outcome.RAISES.value:
        return _raising(quantised, f"{library} {version}", loading.error, loading)
    if loading.outcome == Outcome.PACKED.value and quantised.float8 and torch and _lacks_float8(torch):
        also = f", with {', '.join(loading.needs)}" if loading.needs else ""
        return _raising(
            quantised, f"torch {torch}", _NO_FLOAT8, fix=f"use torch {_FLOAT8} or later on that Mac{also}"
        )
    look = installed or _installed
    missing = [one for one in map(Requirement, loading.needs) if not _has(one, look)]
    early = loading.missing_from and Version(version) < Version(loading.missing_from)
    if missing and loading.missing and not early:
        return _lacking(quantised, loading, missing)
    return LoadingAnswer(
        quantised,
        Outcome(loading.outcome),
        dense=loading.outcome == Outcome.DEQUANTISES.value,
        dtype=loading.dtype,
        sentences=tuple(_loaded(quantised, loading)),
    )


def joined(answers: Sequence[tuple[str, LoadingAnswer]]) -> LoadingAnswer | None:
    """Return one answer for the parts of a target: the worst one, with the sentences of all; None without parts.

    Args:
        answers: The answers, each with the name of its part (empty for a target that is one model).
    """
    if not answers:
        return None
    part, worst = min(answers, key=lambda one: _WORST.index(one[1].outcome))
    sentences = [f"{name}: {text}" if name else text for name, one in answers for text in one.sentences]
    dense = all(one.dense for _, one in answers)
    return replace(worst, part=part, dense=dense, sentences=tuple(sentences))


def weight_bytes(quantised: Quantised, plain_bytes: int, linear: Mapping[str, tuple[int, int]]) -> int:
    """Return the size of the weights in bytes as the checkpoint stores them.

    Args:
        quantised: How the checkpoint is quantised.
        plain_bytes: The size of all parameters and buffers in bytes without quantisation.
        linear: The number of elements and bytes, without quantisation, of the weights of linear layers by module
            name; for a method that quantises only experts, of all expert weights.
    """
    for name, (elements, nbytes) in linear.items():
        if not any(
            re.search(rf"(^|\.){re.escape(part.removeprefix('re:'))}($|\.)", name) for part in quantised.kept
        ):
            plain_bytes += round(elements * quantised.stored_bits / 8) - nbytes
    return plain_bytes


def other_routes(quantised: Quantised) -> list[str]:
    """Return sentences on what computes with such bits natively on a Mac."""
    method = quantised.method
    if method is not None and method.native == "mlx":
        return [
            "MLX loads this checkpoint as it is: python -m mlx_lm generate --model MODEL (pip install mlx-lm)."
        ]
    if method is not None and method.native == "llama.cpp":
        return ["llama.cpp runs this file as it is, on the GPU: llama-cli -m FILE (brew install llama.cpp)."]
    bits = 4 if quantised.bits <= 4 else 8
    reads = method.mlx if method is not None else None
    as_it_is = []
    if quantised.mlx and reads is not None:
        as_it_is = [
            f"MLX loads this checkpoint as it is: python -m mlx_lm generate --model MODEL ({reads.source})."
        ]
    elif reads is not None and reads.unless and (not reads.bits or quantised.bits in reads.bits):
        as_it_is = [f"MLX loads this checkpoint as it is, unless {reads.unless} ({reads.source})."]
    return [
        *as_it_is,
        f"MLX computes with {bits}-bit weights on the GPU: convert the model before it was quantised, "
        f"python -m mlx_lm convert --hf-path ORIGINAL -q --q-bits {bits}; or look for it in mlx-community on the Hub.",
        f"llama.cpp does too: a GGUF file of the model, such as {'Q4_K_M' if bits == 4 else 'Q8_0'}.",
    ]


# ------------------------------------------------------------------------------------------------------ loading


def _loading(method: Method, version: str, library: str) -> Loading | None:
    try:
        wanted = Version(version)
    except InvalidVersion:
        return None
    by_release = method.diffusers if library == "diffusers" else method.loading
    return next(
        (one for one in by_release if SpecifierSet(one.releases).contains(wanted, prereleases=True)),
        None,
    )


def _lacks_float8(torch: str) -> bool:
    try:
        return Version(Version(torch).base_version) < Version(_FLOAT8)
    except InvalidVersion:
        return False


def _is_read(place: str, version: str, library: str) -> bool:
    """Return whether `from_pretrained` reads a statement at this place of the config.

    According to quantizers/auto.py, only at the top of the config; from transformers 5.13 on, also in its
    decoder's part.
    """
    try:
        late = Version(version) >= Version("5.13")
    except InvalidVersion:
        return False
    return (
        library == "transformers" and late and place in ("text_config", "decoder", "generator", "llm_config")
    )


def _unread(quantised: Quantised, version: str, library: str) -> LoadingAnswer:
    """Return the answer for a statement at a place that the library does not read."""
    move = (
        "move it to the top of config.json"
        if "." not in quantised.stated_in and quantised.stated_in.endswith(("config", "decoder"))
        else 'state it in config.json as "quantization_config"'
    )
    return LoadingAnswer(
        quantised,
        Outcome.IGNORED,
        dense=True,
        sentences=(
            f"That the weights are {quantised.title} is stated in {quantised.stated_in}, which {library} {version} "
            "does not read.",
            "It takes the packed tensors for plain ones: they do not fit, or lose their scales, and what the model "
            "then computes is wrong without an error.",
            f"{move[:1].upper()}{move[1:]}, and ask again what that method does on a Mac; or use the original.",
        ),
    )


def _unknown_to(quantised: Quantised, version: str, library: str) -> LoadingAnswer:
    """Return the answer for a method that a release does not support."""
    method = quantised.method
    title = method.title if method is not None else f"the quantisation method {quantised.name!r}"
    oldest = _oldest(method, library) if method is not None else ""
    fix = f"use {library} {oldest} or later" if oldest else ""
    if library == "diffusers":  # quantizers/auto.py: from_dict raises
        error = f"ValueError: Unknown quantization type, got {quantised.name}"
        return _raising(quantised, f"{library} {version}", error, fix=fix)
    return LoadingAnswer(
        quantised,
        Outcome.UNKNOWN if method is None else Outcome.IGNORED,
        dense=True,
        fix=fix,
        sentences=(
            f"{library} {version} does not know {title}: it warns, skips it, and reads packed tensors as plain.",
            "They do not fit plain weights, and what does not fit is left out.",
        ),
    )


def _oldest(method: Method, library: str) -> str:
    """Return the first release of the library that supports the method, where the data states one."""
    by_release = method.diffusers if library == "diffusers" else method.loading
    stated = [spec for one in by_release for spec in SpecifierSet(one.releases) if spec.operator == ">="]
    return min((spec.version for spec in stated), key=Version, default="")


def _raising(
    quantised: Quantised, release: str, error: str, loading: Loading | None = None, fix: str = ""
) -> LoadingAnswer:
    sentences = [f"Loading {quantised.title} with {release} raises on every Mac: {error}"]
    if loading is not None and loading.note:
        sentences.append(loading.note)
    return LoadingAnswer(
        quantised,
        Outcome.RAISES,
        error,
        loading.fix if loading is not None else fix,
        loading is not None and loading.then == Outcome.DEQUANTISES.value,
        sentences=tuple(sentences),
    )


def _lacking(quantised: Quantised, loading: Loading, missing: list[Requirement]) -> LoadingAnswer:
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
    return LoadingAnswer(quantised, Outcome.RAISES, loading.missing, fix, dense, sentences=tuple(sentences))


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
