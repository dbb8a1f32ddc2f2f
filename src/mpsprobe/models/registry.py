"""The resolution of names in a profile (`package.module:attribute`) to the code that they name."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsprobe.errors import ProfileError, first_line
from mpsprobe.models.profile import Profile

if TYPE_CHECKING:
    from mpsprobe.models.adapter import Adapter


def make_adapter(profile: Profile, snapshot: Path) -> Adapter:
    """Make the profile's adapter over the model folder `snapshot`. Imports torch, loads nothing.

    Raises:
        ProfileError: `profile.adapter` names no class, or one that is not an adapter.
        TargetError: it is a file that cannot be imported, or lacks a function.
    """
    from mpsprobe.models.adapter import Adapter  # imports torch: not before an adapter is wanted

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
    """Return the model folder of the profile's builder, creating it if needed.

    Raises:
        ProfileError: `profile.builder` names no function.
    """
    path: Path = resolve(profile, "builder", profile.builder)()
    return path


def resolve(profile: Profile, key: str, spec: str) -> Any:
    """Return the object that `spec` (`package.module:attribute`), the value of the profile's `key`, names.

    Raises:
        ProfileError: it has another form, its module cannot be imported, or there is no such attribute.
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
    except (Exception, SystemExit) as problem:  # whatever a package of somebody else raises
        reason = first_line(problem)
        raise ProfileError(
            f"profile {profile.name}: {key} {spec!r} cannot be imported: {type(problem).__name__}: {reason}"
        ) from problem
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ProfileError(f"profile {profile.name}: {module_name} has no {attribute}.") from None
