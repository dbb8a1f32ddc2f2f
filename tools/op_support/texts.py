"""Recognise messages about restrictions among a kernel's strings, and read the macOS versions that strings state."""

from __future__ import annotations

import re

_RESTRICTS = re.compile(
    r"not support|unsupported|doesn.t support|only support|supported only|not implemented|not currently"
    r"|supported natively|falling back|limited to|requires macOS|macOS ?1|only available"
    r"|must be divisible|doesn't know how|not available",
    re.IGNORECASE,
)
#: Texts that are not restrictions: assertions, layout checks of every kernel, names of source files and symbols.
_UNRELATED = re.compile(
    r"INTERNAL ASSERT|Could this error|View operators|layout is not implemented|memory format|distributed"
    r"|Current OS|\.mm$|\.h$|^_Z|@"
)
_LENGTH = range(13, 400)
#: A text that more ops than this can reach is in shared code and concerns none of them.
MOST_OPS = 40
_MINIMUM_MACOS = re.compile(rb"MPS backend is supported on [mM]acOS (\d+\.\d+)\+")
_DTYPE_MACOS = re.compile(rb"MPS (?:BFloat16 is|complex types are) only supported on MacOS (\d+)")


def restriction(text: str) -> str | None:
    """Return a message about a restriction, without surrounding blanks; None for any other text."""
    if len(text) in _LENGTH and _RESTRICTS.search(text) and not _UNRELATED.search(text):
        return text.strip()
    return None


def minimum_macos(library: bytes) -> str:
    """Return the oldest macOS with MPS (`"14.0"`), as the library's error message for older ones states it."""
    return _only(_MINIMUM_MACOS.findall(library), "the minimum macOS")


def macos_of_newer_dtypes(library: bytes) -> str:
    """Return the oldest macOS for bfloat16 and complex tensors (`"14.0"`), as the library's error messages state it."""
    return f"{_only(_DTYPE_MACOS.findall(library), 'the macOS of bfloat16 and complex types')}.0"


def _only(found: list[bytes], what: str) -> str:
    values = sorted({value.decode() for value in found})
    if len(values) != 1:
        raise RuntimeError(f"The library's texts do not say {what} once: {values}.")
    return values[0]
