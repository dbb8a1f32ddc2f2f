"""Read files of users and repositories into typed structures, within bounds, with the file named in every error.

A path may lead to a pipe or a device, a file may be endless, JSON may be nested without end, and a number may have
ten thousand digits. Each such case ends in an error of one line.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from mpsprobe.errors import DataError, MpsprobeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
#: Bound here, because the code of a target runs in this process and may replace the function.
_open = open

MB = 10**6
#: The greatest size of a config or an index in bytes; the largest known are tokenizers of some 30 MB.
CONFIG_BYTES = 64 * MB
#: The greatest size of a document of mpsprobe in bytes; a run of 200,000 op uses has some 100 MB.
DOCUMENT_BYTES = 2_000 * MB
#: The greatest depth of nesting in a config and in a document. Real configs have six levels.
_DEPTH = 64
#: The largest integer that PyTorch accepts.
_INTEGER = 2**63
#: The greatest length of a name. File systems allow 255 bytes; module paths of real models have fewer than 200.
_NAME = 1_000
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def load(path: Path, type_: type[T], error: type[MpsprobeError] = DataError) -> T:
    """Read a TOML file into an object of `type_`, a `msgspec.Struct`.

    Raises:
        error: The file cannot be read, is not TOML (with line and column), is nested too deep, or does not fit the
            type (with the key).
    """
    data = read_bytes(path, error)
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise error(f"{path}: nested too deep.") from None
    except ValueError as problem:  # not TOML, not UTF-8, or a number of thousands of digits
        raise error(f"{path}: not valid TOML: {problem}.") from problem
    try:
        return msgspec.convert(values, type_)
    except msgspec.ValidationError as problem:
        raise error(f"{path}: {problem}.") from problem


def kind_of(path: Path) -> str:
    """Return what a path leads to, such as `"a pipe"`; `""` for a regular file and for a path that has no status."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "")


def read_bytes(path: Path, error: type[MpsprobeError] = DataError, limit: int = CONFIG_BYTES) -> bytes:
    """Read a regular file of at most `limit` bytes. Pipes, sockets, devices and folders are refused unopened.

    Raises:
        error: The path is not a regular file, the file is too large, or it cannot be read.
    """
    kind = kind_of(path)
    if kind:
        raise error(f"{path}: is {kind}, not a file.")
    try:
        with _open(path, "rb", opener=_open_at_once) as file:
            data = file.read(limit + 1)
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}.") from problem
    except ValueError as problem:  # the name holds a null byte
        raise error(f"{str(path)!r}: is no name of a file.") from problem
    if len(data) > limit:
        raise error(f"{path}: larger than {limit // MB} MB, more than any such file has.")
    return data


def _open_at_once(name: str, flags: int) -> int:
    """Open a file without waiting for a writer, in case it has become a pipe since it was checked."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def json_object(path: Path, error: type[MpsprobeError] = DataError, hint: str = "") -> dict[str, Any]:
    """Read a JSON file whose top level is an object, within the bounds of `read_json`.

    Raises:
        error: `read_json` refuses the file, or its top level is not an object.
    """
    value = read_json(path, error, hint)
    if not isinstance(value, dict):
        raise error(f"{path}: expected a JSON object, found {type(value).__name__}.", hint)
    return cast("dict[str, Any]", value)


def read_json(path: Path, error: type[MpsprobeError] = DataError, hint: str = "") -> Any:
    """Read a JSON file in UTF-8 with Python's `json`, as transformers does, within bounds.

    The bounds are 64 MB, 64 levels of nesting, signed integers of 64 bits, and 1,000 characters of a name.

    Args:
        path: The file.
        error: The class of the error to raise.
        hint: What to do about a file that is not valid; empty when there is no advice.

    Raises:
        error: The file cannot be read, is not UTF-8 or not JSON, or exceeds a bound.
    """
    data = read_bytes(path, error)
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 text (byte {problem.start}).", hint) from problem
    except json.JSONDecodeError as problem:
        where = f"at line {problem.lineno}, column {problem.colno}"
        raise error(f"{path}: not valid JSON: {problem.msg} {where}.", hint) from problem
    except RecursionError:
        raise error(f"{path}: nested too deep.", hint) from None
    except ValueError as problem:  # an integer of thousands of digits
        raise error(f"{path}: not valid JSON: {_without_advice(problem)}.", hint) from problem
    beyond = _beyond(value)
    if beyond:
        raise error(f"{path}: {beyond}.", hint)
    return value


def _without_advice(problem: ValueError) -> str:
    """Return the text of an error of `json`, without the advice that Python gives to programmers."""
    return str(problem).partition("; use sys.set_int_max_str_digits")[0]


def _beyond(value: Any) -> str:
    """Return what exceeds a bound in a JSON value, in a few words; `""` when nothing does."""
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > _DEPTH:
            return f"nested deeper than {_DEPTH} levels"
        if isinstance(one, dict):
            long = next((name for name in one if len(name) > _NAME), None)
            if long is not None:
                return f"a name of {len(long):,} characters ({long[:20]}...)"
            waiting += [(inner, depth + 1) for inner in one.values()]
        elif isinstance(one, list):
            waiting += [(inner, depth + 1) for inner in one]
        elif type(one) is int and not -_INTEGER <= one < _INTEGER:
            return "an integer of more than 64 bits"
    return ""


def decode_json(data: bytes, type_: type[T], what: str, error: type[MpsprobeError] = DataError) -> T:
    """Decode a JSON document of mpsprobe as `type_`.

    Args:
        data: The document.
        type_: The type to decode it as, a `msgspec.Struct`.
        what: The beginning of the error message, such as `"run.json: not a run document"`.
        error: The class of the error to raise.

    Raises:
        error: The data is not JSON, or does not fit the type.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as problem:
        raise error(f"{what}: {problem}.") from problem
