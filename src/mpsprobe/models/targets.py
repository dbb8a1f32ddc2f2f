"""Resolve MODEL to the default target, a folder, a repository, a class or a file, with the profile for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml
from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.models import choose
from mpsprobe.models import profile as profiles
from mpsprobe.models.hub import client
from mpsprobe.models.hub.snapshot import PIPELINE_INDEX, SnapshotError
from mpsprobe.models.profile import Profile
from mpsprobe.options import NO_AUTOCAST, Settings, is_class_path
from mpsprobe.places import as_typed

#: The number of tokens that a weightless generating model makes: a prefill, and enough steps to see the cache grow.
NEW_TOKENS = 8


@dataclass(frozen=True)
class TargetRef:
    """A target that was named and located, before anything of it is fetched or built.

    Attributes:
        name: The target as the user named it, or the default target's name.
        profile: The active profile, with the user's dtype, autocast, and numbers of tokens and steps.
        settings: The options from which it was resolved.
        stated_autocast: The autocast of the profile itself.
        folder: The path of a local folder; None for other targets.
        repo: The id of a repository; None for other targets.
        class_path: `package.module:Class` of a class; None for other targets.
        gguf: The path of a GGUF file; None for other targets.
    """

    name: str
    profile: Profile
    settings: Settings
    stated_autocast: str = ""
    folder: Path | None = None
    repo: str | None = None
    class_path: str | None = None
    gguf: Path | None = None

    @property
    def file(self) -> Path | None:
        """Return the user's own file, which is the profile's adapter; None for other targets."""
        return self.profile.file

    @property
    def config(self) -> Path | None:
        """Return the JSON file of `--config`, with the config of a class; None when the option is not given."""
        return Path(self.settings.config).expanduser() if self.settings.config is not None else None

    @property
    def plan(self) -> dict[str, Any]:
        """Return the numbers of samples and perturbations and the questions, as fields of `run.Target`.

        A number of samples from the user replaces the profile's, without perturbations.
        """
        profile, asked = self.profile, self.settings.samples
        plan = (asked, 0) if asked is not None else (profile.samples, profile.perturbations)
        return {"samples": plan[0], "perturbations": plan[1], "asks": list(profile.asks)}

    @property
    def revision(self) -> str | None:
        """Return the requested commit, tag or branch; None for the default branch."""
        return self.settings.revision

    @property
    def offline(self) -> bool:
        """Return whether to use only the cache: by option or HF_HUB_OFFLINE, or because no Hub can be found."""
        return self.settings.offline or (self.repo is not None and client.offline())

    @property
    def weightless(self) -> bool:
        """Return whether the target is built from its config only, so that weights are neither fetched nor read."""
        return self.settings.random_init

    @property
    def shrink(self) -> bool:
        """Return whether the target is built with fewer layers and experts."""
        return self.settings.shrink

    @property
    def trust_remote_code(self) -> bool:
        """Return whether the user agreed to run the repository's own code."""
        return self.settings.trust_remote_code

    @property
    def title(self) -> str:
        """Return the target's name; a weightless one's also says that weights are random, and maybe shrunk."""
        if not self.weightless:
            return self.name
        return f"{self.name} (random weights{', shrunk' if self.shrink else ''})"

    @property
    def limits(self) -> list[str]:
        """Return sentences that state what results on this target cannot show; none when its own weights are used."""
        if not self.weightless:
            return []
        return [
            "The weights are random, not the model's own: what it computes means nothing, and a fault that "
            "depends on values may not show."
        ]


def resolve(settings: Settings) -> TargetRef:
    """Find the target that the settings name, and choose its profile unless one is given.

    Nothing of the target runs here, so that bad input can be reported before anything starts. The profile of a
    repository that no profile names is chosen by its config.json, which is fetched when it is not in the cache. When
    it cannot be fetched, the generic profile is used, and the download reports the problem.

    Raises:
        UsageError: A path does not exist or is no folder or file of a known kind, a config is not JSON, a profile is
            malformed or lacks its model, or the options contradict each other.
    """
    if settings.config is not None:
        toml.json_object(Path(settings.config).expanduser(), UsageError)
    given = profiles.load(settings.profile) if settings.profile else None
    model = settings.model
    if model is None:
        return _default(settings, given)
    if is_class_path(model):
        return _ref(settings, model, given or profiles.load(choose.GENERIC), class_path=model)
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".py":
        return _ref(settings, model, given or _profile_of_file(path))
    if path.is_file() and path.suffix == ".gguf":
        if not settings.random_init:
            raise UsageError(
                f"{model}: a GGUF file, whose weights this suite does not load.",
                f"llama.cpp runs it: llama-cli -m {model}. mpsprobe predict {model} judges its architecture, and "
                "--random-init runs it with random weights.",
            )
        return _ref(settings, model, given or profiles.load(choose.GENERIC), gguf=path.resolve())
    if path.is_file():
        if path.name not in ("config.json", PIPELINE_INDEX):
            raise UsageError(
                f"{model}: neither a config.json, a .gguf nor a .py file.",
                "Give the folder, or package.module:Class --config FILE.",
            )
        path = path.parent
    if path.is_dir():
        return _ref(settings, model, given or _profile_of_folder(path), folder=path.resolve())
    if is_path(model):
        what = "file" if path.suffix in (".py", ".gguf") else "folder"
        raise UsageError(f"{model}: no such {what}.", "Give a local folder or a repo id (owner/name).")
    offline = settings.offline or client.offline()
    chosen = given or choose.for_repo(model) or _profile_of_repo(model, settings.revision, offline)
    return _ref(settings, model, chosen, repo=model)


def is_path(model: str) -> bool:
    """Return whether a name can only be a path: it begins like one, has two slashes, or ends in `.py` or `.gguf`."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith((".py", ".gguf"))


def needs_no_hub(settings: Settings) -> bool:
    """Return whether `resolve` makes no request to the Hub; False where it may have to look the model up there."""
    model = settings.model
    return model is None or settings.profile is not None or is_class_path(model) or is_path(model)


def _default(settings: Settings, given: Profile | None) -> TargetRef:
    """Return the default target, or the one that the given profile builds or names.

    Raises:
        UsageError: The profile has neither a builder nor a model.
    """
    chosen = given or profiles.load(choose.DEFAULT)
    if chosen.builder or chosen.file is not None:
        return _ref(settings, chosen.name, chosen)
    if not chosen.models:
        raise UsageError(f"profile {chosen.name}: says nothing of where its model is.", "Give the model too.")
    return _ref(settings, chosen.models[0], chosen, repo=chosen.models[0])


def _ref(
    settings: Settings,
    name: str,
    profile: Profile,
    *,
    folder: Path | None = None,
    repo: str | None = None,
    class_path: str | None = None,
    gguf: Path | None = None,
) -> TargetRef:
    return TargetRef(
        name if repo is not None else as_typed(name),
        _with_wishes(profile, settings),
        settings,
        profile.autocast,
        folder=folder,
        repo=repo,
        class_path=class_path,
        gguf=gguf,
    )


def _with_wishes(profile: Profile, settings: Settings) -> Profile:
    """Return the profile with the user's dtype, autocast, steps and number of tokens in place of its own.

    Raises:
        UsageError: The profile has no parts for autocast, or its inference has no number of new tokens.
    """
    if settings.dtype is not None:
        profile = msgspec.structs.replace(profile, dtype=settings.dtype)
    if settings.autocast is not None:
        autocast = "" if settings.autocast == NO_AUTOCAST else settings.autocast
        if autocast.startswith("parts:") and not profile.casts_parts:
            raise UsageError(
                f"--autocast {autocast}: profile {profile.name} knows no parts to open regions around.",
                f"{autocast.removeprefix('parts:')} is around the whole inference.",
            )
        profile = msgspec.structs.replace(profile, autocast=autocast)
    generic = profile.adapter == profiles.load(choose.GENERIC).adapter
    if settings.steps is not None:
        inference = {**profile.inference, "num_inference_steps": settings.steps}
        profile = msgspec.structs.replace(profile, inference=inference)
    tokens = settings.new_tokens
    if tokens is None and settings.random_init and generic:
        tokens = NEW_TOKENS
    if tokens is None:
        return profile
    if not generic and "max_new_tokens" not in profile.inference:
        raise UsageError(
            f"profile {profile.name}: its inference knows no max_new_tokens, so --new-tokens has no meaning.",
            f"It has: {', '.join(profile.inference) or 'no parameters'}.",
        )
    return msgspec.structs.replace(profile, inference={**profile.inference, "max_new_tokens": tokens})


def _profile_of_file(path: Path) -> Profile:
    """Return the profile of the same name beside a user's file; without one, a profile that only names the file.

    Raises:
        UsageError: The profile beside the file cannot be read, or names another adapter.
    """
    path = path.resolve()
    beside = path.with_suffix(".toml")
    if not beside.is_file():
        return Profile(name=path.stem, title=f"{path.name}, a file", adapter=str(path), attention="")
    profile = profiles.load(beside)
    if profile.file != path:
        raise UsageError(
            f"{beside}: its adapter is {profile.adapter!r}, not the file beside it.",
            f'Write adapter = "{path.name}".',
        )
    return profile


def _profile_of_folder(path: Path) -> Profile:
    try:
        return choose.for_folder(path)
    except SnapshotError:  # phase 3 says what is wrong with it
        return profiles.load(choose.GENERIC)


def _profile_of_repo(repo: str, revision: str | None, offline: bool) -> Profile:
    try:
        config = client.fetch_file(repo, "config.json", revision, offline=offline)
        if config is None:
            config = client.fetch_file(repo, PIPELINE_INDEX, revision, offline=offline)
        if config is None:
            return profiles.load(choose.GENERIC)
        for marker in choose.markers():
            if not offline:
                client.fetch_file(repo, marker, revision)
        return choose.for_config(config.parent)
    except MpsprobeError:  # phase 3 says what is wrong with it
        return profiles.load(choose.GENERIC)
