"""TOML files into typed structures, with the file and the key in every error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from mpsprobe.errors import DataError, MpsprobeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def load(path: Path, type_: type[T], error: type[MpsprobeError] = DataError) -> T:
    """Read `path` as `type_` (a `msgspec.Struct`).

    Raises:
        error: the file is not TOML (with line and column), or does not fit the type (with the key).
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error(f"{path}: not valid TOML: {problem}.") from problem
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as problem:
        raise error(f"{path}: {problem}.") from problem
