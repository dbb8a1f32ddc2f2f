"""Choose the profile for a model by repo id, files or architecture, and load the code that the profile names."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.errors import ProfileError, first_line
from mpsprobe.models import profile as profiles
from mpsprobe.models.hub.snapshot import architecture, read_config
from mpsprobe.models.profile import Profile

if TYPE_CHECKING:
    from mpsprobe.models.adapter import Adapter


#: The profile of every transformers model without its own.
GENERIC = "transformers"
#: The profile of the default target.
DEFAULT = "tiny-drive"


def for_repo(repo_id: str) -> Profile | None:
    """Return the profile that names this repository (ignoring case, as on the Hub); None when there is none."""
    wanted = repo_id.lower()
    return next((p for p in _all() if wanted in (model.lower() for model in p.models)), None)


def for_folder(folder: Path) -> Profile:
    """Return the profile for a model folder: that of its repo id, else that of its contents, else the generic one.

    The repo id is known for folders in the Hub's cache only.

    Raises:
        ConfigError: Neither repo id nor marker names a profile, and `config.json` is missing or malformed.
    """
    repo_id = repo_of(folder)
    return (for_repo(repo_id) if repo_id else None) or for_config(folder)


def for_config(folder: Path) -> Profile:
    """Return the profile for a folder's small files: by marker file, else by architecture, else the generic one.

    A marker outranks the architecture, because a sentence encoder also names the plain encoder's class. The weights
    may be missing.

    Raises:
        ConfigError: There is no marker, and `config.json` is missing or malformed.
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
    """Return the names of the marker files of all profiles, sorted: what `for_config` looks for besides config.json."""
    return sorted({marker for candidate in _all() for marker in candidate.markers})


def repo_of(folder: Path) -> str | None:
    """Return the repo id of a folder in the Hub's cache (`models--ORG--NAME/snapshots/COMMIT`); None for others."""
    parts = folder.parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    return parts[-3].removeprefix("models--").replace("--", "/", 1)


def _all() -> list[Profile]:
    return [profiles.load(name) for name in profiles.names()]


def make_adapter(profile: Profile, snapshot: Path) -> Adapter:
    """Make the profile's adapter for the model folder `snapshot`. This imports torch, but loads no model.

    Raises:
        ProfileError: `profile.adapter` cannot be imported, or is not a complete subclass of `Adapter`.
        TargetError: The profile is a file that cannot be imported, or that lacks a function.
    """
    from mpsprobe.models.adapter import Adapter  # imports torch, so only when an adapter is needed

    if profile.file is not None:
        from mpsprobe.models.target_file import TargetFileAdapter

        return TargetFileAdapter(snapshot, profile)
    found = resolve(profile, "adapter", profile.adapter)
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise ProfileError(
            f"profile {profile.name}: adapter {profile.adapter!r} is not a subclass of "
            f"{Adapter.__module__}.{Adapter.__qualname__}."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ProfileError(f"profile {profile.name}: adapter {profile.adapter!r} lacks {missing}.")
    return found(snapshot, profile)


def build_snapshot(profile: Profile) -> Path:
    """Return the model folder that the profile's builder makes or finds in the cache.

    Raises:
        ProfileError: `profile.builder` cannot be imported.
    """
    path: Path = resolve(profile, "builder", profile.builder)()
    return path


def resolve(profile: Profile, key: str, spec: str) -> Any:
    """Import the object that a profile names, such as its adapter or its builder.

    Args:
        profile: The profile, for the text of an error.
        key: The key of the profile that names the object, for the text of an error.
        spec: The value of that key: `package.module:attribute`.

    Raises:
        ProfileError: The text has another format, its module cannot be imported, or there is no such attribute.
    """
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise ProfileError(f"profile {profile.name}: {key} {spec!r} is not of the form package.module:Name.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as problem:
        hint = f"Install what provides {problem.name}." if problem.name else ""
        raise ProfileError(
            f"profile {profile.name}: {key} {spec!r} cannot be imported: {problem}.", hint
        ) from problem
    except (Exception, SystemExit) as problem:  # a third-party package may raise anything
        reason = first_line(problem)
        raise ProfileError(
            f"profile {profile.name}: {key} {spec!r} cannot be imported: {type(problem).__name__}: {reason}"
        ) from problem
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ProfileError(f"profile {profile.name}: {module_name} has no {attribute}.") from None
