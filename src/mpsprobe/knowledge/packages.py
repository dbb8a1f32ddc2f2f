"""Packages whose kernels need CUDA, and what an import of one means on a Mac.

The data is in `data/packages.toml`.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from mpsprobe import toml
from mpsprobe.errors import DataError

DATA = Path(__file__).parent / "data" / "packages.toml"


class Meaning(str, enum.Enum):
    """What an import of a CUDA-only package means on a Mac."""

    OPTIONAL = "optional"  #: the code works without it
    REPLACE = "replace"  #: there is an alternative on a Mac
    BLOCKS = "blocks"  #: the model's code cannot be imported


class CudaPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One package; the data file describes the fields."""

    name: str
    imports: list[str]
    meaning: Meaning
    instead: str
    seen: str
    usable_from: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package: list[CudaPackage]


@lru_cache(maxsize=1)
def cuda_packages() -> tuple[CudaPackage, ...]:
    """Return every package of the data file."""
    return tuple(toml.load(DATA, _File, DataError).package)


def of_distribution(name: str) -> CudaPackage | None:
    """Return the CUDA-only package with this distribution name; None for any other."""
    wanted = canonicalize_name(name)
    return next((one for one in cuda_packages() if canonicalize_name(one.name) == wanted), None)


def of_import(module: str) -> CudaPackage | None:
    """Return the CUDA-only package that a module belongs to, by its top-level name; None for any other."""
    top = module.partition(".")[0]
    return next((one for one in cuda_packages() if top in one.imports), None)
