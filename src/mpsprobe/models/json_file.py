"""A user's JSON file, read with one clear line for whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpsprobe import toml
from mpsprobe.errors import UsageError


def json_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    return toml.json_object(path, UsageError)
