"""Quantised checkpoints on a Mac: what transformers and diffusers do with each method when they load one.

The data in `data/quantisation.toml` was read in their wheels, release by release.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mpsprobe.knowledge import dtypes
from mpsprobe.knowledge._statement import (
    NO_METHOD,
    Loading,
    Method,
    Quantised,
    find,
    methods,
    of_statement,
    package,
    weight_bytes,
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
    "weight_bytes",
]

#: A function that returns the version of an installed distribution by its name; None when it is not installed.
Installed = Callable[[str], "str | None"]
#: The first torch release in which MPS computes with float8 tensors.
_FLOAT8 = "2.15"


#: The stages that can raise, in the words with which a sentence about the error begins.
LOADING, COMPUTING = "Loading", "Computing with"


class Outcome(str, enum.Enum):
    """What becomes of a quantised checkpoint when a Mac loads it."""

    RAISES = "raises"
    PACKED = "packed"
    DEQUANTISES = "dequantises"
    IGNORED = "ignored"  #: nothing raises, but the packed weights or their scales are left out
    UNKNOWN = "unknown"


#: The outcomes from worst to best.
_WORST = (Outcome.RAISES, Outcome.IGNORED, Outcome.UNKNOWN, Outcome.DEQUANTISES, Outcome.PACKED)


@dataclass(frozen=True)
class LoadingAnswer:
    """What `from_pretrained` does with a quantised checkpoint on a Mac.

    Attributes:
        quantised: How it is quantised.
        outcome: The outcome with the installed packages; also `RAISES` where the checkpoint loads and its first
            forward pass raises.
        error: The exception that `stage` raises; empty when none is raised or its text is not known.
        fix: The fix, as a phrase or a command; empty when none is known.
        dense: Whether the loaded weights take as much memory as plain ones.
        dtype: The dtype of dequantised weights; `"asked"` for the requested dtype; empty when they are not
            dequantised.
        sentences: What a user should know, in whole sentences.
        part: The part of a pipeline that the checkpoint belongs to; empty for a target that is one model.
        stage: The stage that `error` comes from: `"Loading"` or `"Computing with"`.
    """

    quantised: Quantised
    outcome: Outcome
    error: str = ""
    fix: str = ""
    dense: bool = False
    dtype: str = ""
    sentences: tuple[str, ...] = ()
    part: str = ""
    stage: str = LOADING

    @property
    def title(self) -> str:
        """Return the quantisation, with the part of a pipeline that has it: `"transformer (GPTQ, 4 bits)"`."""
        return f"{self.part} ({self.quantised.title})" if self.part else self.quantised.title

    @property
    def routes(self) -> list[str]:
        """Return sentences on MLX and llama.cpp as alternatives; empty for a part of a pipeline."""
        return [] if self.part else other_routes(self.quantised)

    @property
    def raises(self) -> bool:
        """Return whether loading, or the first forward pass after it, raises an exception."""
        return self.outcome is Outcome.RAISES

    @property
    def fails(self) -> bool:
        """Return whether no usable model comes of it: it raises, leaves weights out, or the method is unknown."""
        return self.outcome in (Outcome.RAISES, Outcome.IGNORED, Outcome.UNKNOWN)


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
    loading = _loading(method, version, library, dict(quantised.words)) if method is not None else None
    if loading is None:
        return _unknown_to(quantised, version, library)
    look = installed or _installed
    missing = [one for one in map(Requirement, loading.needs) if not _has(one, look)]
    early = loading.missing_from and Version(version) < Version(loading.missing_from)
    lacks = bool(missing and loading.missing and not early)
    if loading.outcome == Outcome.RAISES.value or (loading.outcome == Outcome.IGNORED.value and lacks):
        error = _missing_error(loading, missing) if lacks else loading.error
        if loading.unread and quantised.key == "quantization":
            error = loading.unread
        return _raising(quantised, f"{library} {version}", error, loading)
    if loading.keeps_modules and any(name.endswith(".weight") for name in quantised.kept) and not lacks:
        return _unkept(quantised, f"{library} {version}")
    if loading.outcome == Outcome.IGNORED.value:
        return _left_out(quantised, loading, f"{library} {version}")
    stops = _stops(quantised, loading, torch)
    if stops is not None:
        return stops
    if lacks:
        return _lacking(quantised, loading, missing)
    unpacked = [one for one in map(Requirement, loading.packed_with) if not _has(one, look)]
    if unpacked:
        names = " ".join(shlex.quote(str(one)) for one in unpacked)
        note = f"With {names} (python -m pip install {names}) its weights stay packed. {loading.note}"
        loading = msgspec.structs.replace(
            loading, outcome=Outcome.DEQUANTISES.value, dtype="asked", note=note
        )
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


def other_routes(quantised: Quantised) -> list[str]:
    """Return sentences on other programs that compute with such quantised weights on a Mac's GPU: MLX and llama.cpp."""
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


def _loading(method: Method, version: str, library: str, words: Mapping[str, str]) -> Loading | None:
    try:
        wanted = Version(version)
    except InvalidVersion:
        return None
    by_release = method.diffusers if library == "diffusers" else method.loading
    return next(
        (
            one
            for one in by_release
            if SpecifierSet(one.releases).contains(wanted, prereleases=True)
            and one.where.items() <= words.items()
        ),
        None,
    )


def _stops(quantised: Quantised, loading: Loading, torch: str | None) -> LoadingAnswer | None:
    """Return the answer for a checkpoint whose first forward pass raises on MPS; None where none is known to."""
    also = f", with {', '.join(loading.needs)}" if loading.needs else ""
    if quantised.float8 and torch and _lacks_float8(torch) and loading.outcome == Outcome.PACKED.value:
        refused = dtypes.refused_copy("float8_e4m3fn", "bfloat16", torch)
        error = f"{refused.error}: {refused.message}" if refused is not None else ""
        why = f"it holds float8, with which no kernel of torch {(torch or '').partition('+')[0]} on MPS computes"
        fix = f"use torch {_FLOAT8} or later on that Mac{also}"
    elif quantised.refused is not None:
        error, why, fix = quantised.refused.error, quantised.refused.why, ""
    else:
        return None
    sentences = (
        f"{quantised.title} loads, and its first forward pass on MPS raises {error}",
        f"{why[:1].upper()}{why[1:]}.",
    )
    return LoadingAnswer(quantised, Outcome.RAISES, error, fix, sentences=sentences, stage=COMPUTING)


def _missing_error(loading: Loading, missing: list[Requirement]) -> str:
    """Return the text of the error with which a quantisation method fails to load.

    Args:
        loading: The method's facts. Its `needs` lists the packages that it imports, in the order of import.
        missing: The packages that are not installed.

    Returns:
        `loading.missing` where the first of these packages is missing, or where the method has one text only;
        otherwise `loading.alone`.
    """
    first = Requirement(loading.needs[0]).name
    return (
        loading.missing if not loading.alone or any(one.name == first for one in missing) else loading.alone
    )


def _left_out(quantised: Quantised, loading: Loading, release: str) -> LoadingAnswer:
    """Return the answer for a release that loads a checkpoint without an error and without its weights."""
    said = (
        f"{release} loads {quantised.title} without an error and leaves its stored weights out: every quantised layer "
        "gets random ones, which its load report calls newly initialised."
    )
    notes = (loading.note,) if loading.note else ()
    return LoadingAnswer(quantised, Outcome.IGNORED, fix=loading.fix, dense=True, sentences=(said, *notes))


def _unkept(quantised: Quantised, release: str) -> LoadingAnswer:
    """Return the answer for a checkpoint that lists weights to keep plain, in a release that expects modules."""
    first = next(name for name in quantised.kept if name.endswith(".weight"))
    said = (
        f"{release} replaces layers that this checkpoint keeps plain: it states {first}, and that release reads names "
        "of modules. Their stored weights are left out without an error, and random ones take their place."
    )
    fix = f"write {first.removesuffix('.weight')} for {first} in the config, and so on, or use transformers 4.57"
    return LoadingAnswer(quantised, Outcome.IGNORED, fix=fix, sentences=(said,))


def _lacks_float8(torch: str) -> bool:
    try:
        return Version(Version(torch).base_version) < Version(_FLOAT8)
    except InvalidVersion:
        return False


def _is_read(place: str, version: str, library: str) -> bool:
    """Return whether `from_pretrained` reads a statement at this place, which is not the top of the config.

    According to quantizers/auto.py, only transformers 5.13 and later does, and only in the config of the decoder.
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
    method = quantised.method
    if method is not None and method.own_loader:
        fix = f"load it with the package that saved it: {method.own_loader}"
        return LoadingAnswer(
            quantised,
            Outcome.IGNORED,
            fix=fix,
            sentences=(
                f"That the weights are {quantised.title} is stated in {quantised.stated_in}, which {library} {version} "
                "does not read.",
                "It leaves the packed tensors out, and every quantised layer gets random weights without an error: a "
                "warning lists them as newly initialised.",
                f"{fix[:1].upper()}{fix[1:]}.",
            ),
        )
    if method is not None and _loading(method, version, library, dict(quantised.words)) is None:
        step = f"{library} {version} does not know that method at any place: use the original."
    else:
        move = (
            "Move it to the top of config.json"
            if "." not in quantised.stated_in and quantised.stated_in.endswith(("config", "decoder"))
            else 'State it in config.json as "quantization_config"'
        )
        step = f"{move}, and ask again what that method does on a Mac; or use the original."
    return LoadingAnswer(
        quantised,
        Outcome.IGNORED,
        dense=True,
        sentences=(
            f"That the weights are {quantised.title} is stated in {quantised.stated_in}, which {library} {version} "
            "does not read.",
            "It takes the packed tensors for plain ones: they do not fit, or lose their scales, and what the model "
            "then computes is wrong without an error.",
            step,
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
            "Tensors of another size than plain ones raise a size mismatch; others lose their scales without an error.",
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
    error = _missing_error(loading, missing)
    stuck = [found for _, found in known if found is not None and found.macos == "none"]
    names = ", ".join(one.name for one in missing)
    sentences = [f"Loading {quantised.title} needs {names}: without, it raises {error}"]
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
    return LoadingAnswer(quantised, Outcome.RAISES, error, fix, dense, sentences=tuple(sentences))


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
