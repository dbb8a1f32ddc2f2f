"""Parse version texts of users into comparable versions."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from mpsprobe.errors import UsageError


def torch_release(text: str) -> Version:
    """Return the release that a torch version belongs to: `2.13.0` for `2.13.0+cpu` and `2.13.0.dev20260424`.

    Raises:
        UsageError: The text is not a version.
    """
    try:
        return Version(Version(text).base_version)
    except InvalidVersion as problem:
        raise UsageError(f"{text!r} is not a torch version.", "Write it like 2.8 or 2.8.0.") from problem


def macos_version(text: str) -> Version:
    """Parse a macOS version such as `14.4.1`.

    Raises:
        UsageError: The text is not a version.
    """
    try:
        return Version(text)
    except InvalidVersion as problem:
        raise UsageError(f"{text!r} is not a macOS version.", "Write it like 14 or 14.4.1.") from problem
