"""Which profile is for a model: by its repo id, by the files in its folder, by its architecture."""

from __future__ import annotations

from mpsprobe.models import profile as profiles
from mpsprobe.models.profile import Profile
from mpsprobe.models.snapshot import Snapshot

#: The profile for every transformers model that has none of its own.
GENERIC = "transformers"
#: The profile of the target that is probed when none is named.
DEFAULT = "tiny-drive"


def for_repo(repo_id: str) -> Profile | None:
    """The profile that names this repository (letter case aside, as on the hub); None when none does."""
    wanted = repo_id.lower()
    return next((p for p in _all() if wanted in (model.lower() for model in p.models)), None)


def choose_profile(snapshot: Snapshot, repo_id: str | None = None) -> Profile:
    """The profile for a model folder; the generic one when no other claims it.

    A repo id outranks a marker file (a sentence encoder also names a plain architecture), and that outranks
    the architecture. Without `repo_id`, one is read from the folder's place in the hub's cache.
    """
    repo_id = repo_id or repo_of(snapshot)
    if repo_id and (named := for_repo(repo_id)):
        return named
    for candidate in _all():
        if any((snapshot.path / marker).is_file() for marker in candidate.markers):
            return candidate
    for candidate in _all():
        if snapshot.architecture in candidate.architectures:
            return candidate
    return profiles.load(GENERIC)


def repo_of(snapshot: Snapshot) -> str | None:
    """The repo id of a folder in the hub's cache (`models--ORG--NAME/snapshots/COMMIT`), else None."""
    parts = snapshot.path.parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/", 1)


def _all() -> list[Profile]:
    return [profiles.load(name) for name in profiles.names()]
