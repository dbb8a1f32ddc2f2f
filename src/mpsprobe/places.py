"""The folder of this user's caches, by platform, and paths as a reader wants to see them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mpsprobe.errors import SurroundingsError


def near(path: Path) -> Path:
    """Return a path relative to the working directory; unchanged if it is not below it, or the directory is gone."""
    try:
        return path.relative_to(Path.cwd())
    except (OSError, ValueError):
        return path


def as_typed(word: str) -> str:
    """Return an absolute path relative to the working directory, as its user probably typed it.

    Child processes get paths as absolute ones. A word that is not an absolute path is returned unchanged, as is a
    path outside the working directory.
    """
    path = Path(word)
    return str(near(path)) if path.is_absolute() else word


def caches() -> Path:
    """Return this user's folder for caches: `~/Library/Caches` on macOS, elsewhere $XDG_CACHE_HOME or `~/.cache`.

    Raises:
        SurroundingsError: The user has no home folder: HOME is not set, and the system knows no such user.
    """
    if sys.platform != "darwin" and (named := os.environ.get("XDG_CACHE_HOME")):
        return Path(named)
    try:
        home = Path.home()
    except RuntimeError:
        raise SurroundingsError(
            "This user has no home folder, so there is no place for caches.",
            "Set HOME to a folder that can be written.",
        ) from None
    return home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
