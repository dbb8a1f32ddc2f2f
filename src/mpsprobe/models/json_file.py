"""A user's JSON file, read with one clear line for whatever is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mpsprobe.errors import UsageError


def json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise UsageError(f"{path}: cannot be read: {problem.strerror}.") from problem
    except ValueError as problem:
        raise UsageError(f"{path}: not valid JSON: {problem}.") from problem
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data
