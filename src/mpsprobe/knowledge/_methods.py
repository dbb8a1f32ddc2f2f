"""Schema of `data/quantisation.toml`: methods of quantisation by release, and the packages that they need."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml

DATA = Path(__file__).parent / "data" / "quantisation.toml"


class RequiredPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package that a method needs.

    Attributes:
        name: The name of the distribution.
        macos: `wheel` (installs on a Mac), `source` (must be built there) or `none` (cannot be installed).
        seen: The release that was examined, and what was found.
        install: The arguments of pip, where they are more than the name.
    """

    name: str
    macos: str
    seen: str
    install: str = ""


class Loading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What some releases of a library do with a method on a Mac; the data file describes the fields."""

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
    """A statement with which a method's kernels raise on MPS, once the checkpoint is loaded.

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
    """A method of quantisation; the data file describes the fields."""

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
    """Return the facts about a package by its name; None for one that the data does not have."""
    wanted = _canonical(name)
    return next((one for one in _data().packages if _canonical(one.name) == wanted), None)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _data() -> _File:
    return toml.load(DATA, _File)
