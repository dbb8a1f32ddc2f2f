"""The choice of a profile for a model: by its repo id, the files in its folder, or its architecture."""

from __future__ import annotations

from pathlib import Path

from mpsprobe.models import profile as profiles
from mpsprobe.models.hub.snapshot import architecture, read_config
from mpsprobe.models.profile import Profile

#: The profile for every transformers model that has none of its own.
GENERIC = "transformers"
#: The profile of the target that is probed when none is named.
DEFAULT = "tiny-drive"


def for_repo(repo_id: str) -> Profile | None:
    """Return the profile that names this repository (letter case ignored, as on the hub); None when none does."""
    wanted = repo_id.lower()
    return next((p for p in _all() if wanted in (model.lower() for model in p.models)), None)


def for_folder(folder: Path) -> Profile:
    """Return the profile for a model folder; the generic one when no other claims it.

    A repo id, which is read from the folder's place in the hub's cache, outranks what is in the folder.

    Raises:
        ConfigError: `config.json` is missing or malformed.
    """
    repo_id = repo_of(folder)
    return (for_repo(repo_id) if repo_id else None) or for_config(folder)


def for_config(folder: Path) -> Profile:
    """Return the profile for a folder that holds at least `config.json`; its weights may be absent.

    A marker file outranks the architecture: a sentence encoder also names the plain encoder's class.

    Raises:
        ConfigError: `config.json` is missing or malformed.
    """
    everyone = _all()
    for candidate in everyone:  # a folder of diffusers has no config.json, only a marker
        if any((folder / marker).is_file() for marker in candidate.markers):
            return candidate
    named = architecture(read_config(folder))
    for candidate in everyone:
        if named in candidate.architectures:
            return candidate
    return profiles.load(GENERIC)


def markers() -> list[str]:
    """Return the names of small files that `for_config` looks for beside config.json."""
    return sorted({marker for candidate in _all() for marker in candidate.markers})


def repo_of(folder: Path) -> str | None:
    """Return the repo id of a folder in the hub's cache (`models--ORG--NAME/snapshots/COMMIT`), else None."""
    parts = folder.parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/", 1)


def _all() -> list[Profile]:
    return [profiles.load(name) for name in profiles.names()]
