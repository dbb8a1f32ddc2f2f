"""What a user means by MODEL: the default target, a local folder or a repository, and the profile for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.models import choose, hub, snapshot
from mpsprobe.models import profile as profiles
from mpsprobe.models.profile import Profile


@dataclass(frozen=True)
class TargetRef:
    """A target before anything of it was fetched or built.

    Attributes:
        name: as the user gave it, or the default target's name.
        profile: the profile in force.
        folder: where it lies, for a local folder.
        repo: its id, for a repository.
        revision: commit, tag or branch asked for.
        offline: ask no hub.
    """

    name: str
    profile: Profile
    folder: Path | None = None
    repo: str | None = None
    revision: str | None = None
    offline: bool = False


def resolve(
    model: str | None = None, profile: str | None = None, revision: str | None = None, offline: bool = False
) -> TargetRef:
    """Find out what is meant, and choose the profile unless one is given.

    A repository that no profile names is judged by its config.json, fetched for that when it is not in the
    cache. When that cannot be had, the generic profile stands in, and the download says what is wrong.

    Raises:
        UsageError: a path that is no folder, a malformed profile, or a profile given without its model.
    """
    given = profiles.load(profile) if profile else None
    offline = offline or hub.offline()
    if model is None:
        chosen = given or profiles.load(choose.DEFAULT)
        if not chosen.builder:
            if not chosen.models:
                raise UsageError(
                    f"profile {chosen.name}: says nothing of where its model is.", "Give the model too."
                )
            return TargetRef(
                chosen.models[0], chosen, repo=chosen.models[0], revision=revision, offline=offline
            )
        return TargetRef(chosen.name, chosen)
    path = Path(model).expanduser()
    if path.is_dir():
        return TargetRef(model, given or _profile_of_folder(path), folder=path.resolve())
    if is_path(model):
        raise UsageError(f"{model}: no such folder.", "Give a local folder or a repo id (owner/name).")
    chosen = given or choose.for_repo(model) or _profile_of_repo(model, revision, offline)
    return TargetRef(model, chosen, repo=model, revision=revision, offline=offline)


def is_path(model: str) -> bool:
    """Whether a name can only be a path: a repo id has at most one slash and begins with neither . nor /."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def _profile_of_folder(path: Path) -> Profile:
    try:
        return choose.choose_profile(snapshot.inspect(path))
    except snapshot.SnapshotError:  # phase 3 says what is wrong with it
        return profiles.load(choose.GENERIC)


def _profile_of_repo(repo: str, revision: str | None, offline: bool) -> Profile:
    try:
        if offline:
            return choose.choose_profile(snapshot.inspect(hub.cached_snapshot(repo, revision)), repo)
        config = hub.fetch_file(repo, "config.json", revision)
        if config is None:
            return profiles.load(choose.GENERIC)
        for marker in choose.markers():
            hub.fetch_file(repo, marker, revision)
        return choose.for_config(config.parent)
    except MpsprobeError:  # phase 3 says what is wrong with it
        return profiles.load(choose.GENERIC)
