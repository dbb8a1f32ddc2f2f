"""What a user means by MODEL: the default target, a folder, a repository or a class; and the profile for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.models import choose
from mpsprobe.models import profile as profiles
from mpsprobe.models.hub import client
from mpsprobe.models.hub.snapshot import PIPELINE_INDEX, SnapshotError
from mpsprobe.models.json_file import json_object
from mpsprobe.models.profile import Profile

#: Tokens that a generating model makes without its weights: a prefill, and enough steps to meet a grown cache.
NEW_TOKENS = 8
#: What weights are loaded in; others are dtypes of parts of them, or of none.
WEIGHT_DTYPES = ("auto", "float32", "bfloat16", "float16")
#: What a user says for no autocast, whatever the profile says.
NO_AUTOCAST = "none"


@dataclass(frozen=True)
class Wanted:
    """What a user says of a target.

    Attributes:
        model: repo id, folder, its `config.json`, class path `package.module:Class`, a file of one's own
            (docs/targets.md), or None for the default target.
        profile: name of a profile, path of a user's own, or None to choose by the model.
        config: JSON file for a class path.
        revision: commit, tag or branch of a repo id.
        offline: ask no hub.
        weightless: built from its config alone; weights are neither fetched nor read.
        shrink: with fewer layers; only without weights.
        trust_remote_code: run the repository's own code.
        dtype: of the weights, in place of the profile's.
        new_tokens: that a generating model makes, in place of the profile's.
        autocast: around inference, in place of the profile's (see `Profile`); `NO_AUTOCAST` for none.
    """

    model: str | None = None
    profile: str | None = None
    config: Path | None = None
    revision: str | None = None
    offline: bool = False
    weightless: bool = False
    shrink: bool = False
    trust_remote_code: bool = False
    dtype: str | None = None
    new_tokens: int | None = None
    autocast: str | None = None


@dataclass(frozen=True)
class TargetRef:
    """A target before anything of it was fetched or built.

    Attributes:
        name: as the user gave it, or the default target's name.
        profile: the profile in force, with the user's dtype, number of tokens and autocast.
        stated_autocast: what the profile itself says of autocast.
        folder: where it lies, for a local folder.
        repo: its id, for a repository.
        class_path: `package.module:Class`, for a class.
        file: a user's own file; it is the profile's adapter.
        gguf: a GGUF file.
        config: JSON file of that class; None where it does without.
        revision: commit, tag or branch asked for.
        offline: ask no hub.
        weightless, shrink, trust_remote_code: see `Wanted`.
    """

    name: str
    profile: Profile
    stated_autocast: str = ""
    folder: Path | None = None
    repo: str | None = None
    class_path: str | None = None
    file: Path | None = None
    gguf: Path | None = None
    config: Path | None = None
    revision: str | None = None
    offline: bool = False
    weightless: bool = False
    shrink: bool = False
    trust_remote_code: bool = False

    @property
    def title(self) -> str:
        """Its name, with what sets it apart from the model of that name."""
        if not self.weightless:
            return self.name
        return f"{self.name} (random weights{', shrunk' if self.shrink else ''})"

    @property
    def limits(self) -> list[str]:
        """What results on this target cannot say, one sentence each."""
        if not self.weightless:
            return []
        return [
            "The weights are random, not the model's own: what it computes means nothing, and a fault that "
            "depends on values may not show."
        ]


def resolve(wanted: Wanted) -> TargetRef:
    """Find out what is meant, and choose the profile unless one is given.

    Nothing of the target runs here, so that bad input can be answered before anything starts. A repository that
    no profile names is judged by its config.json, fetched for that when it is not in the cache. When that cannot
    be had, the generic profile stands in, and the download says what is wrong.

    Raises:
        UsageError: a path that is no folder, a config that is no JSON, a malformed profile, a profile given
            without its model, or options that do not go together.
    """
    check(wanted)
    given = profiles.load(wanted.profile) if wanted.profile else None
    model = wanted.model
    if model is None:
        return _default(wanted, given)
    if is_class_path(model):
        return _ref(wanted, model, given or profiles.load(choose.GENERIC), class_path=model)
    path = Path(model).expanduser()
    if path.is_file() and path.suffix == ".py":
        return _ref(wanted, model, given or _profile_of_file(path))
    if path.is_file() and path.suffix == ".gguf":
        if not wanted.weightless:
            raise UsageError(
                f"{model}: a GGUF file, whose weights this suite does not load.",
                f"llama.cpp runs it: llama-cli -m {model}. mpsprobe predict {model} judges its architecture, and "
                "--random-init runs it with random weights.",
            )
        return _ref(wanted, model, given or profiles.load(choose.GENERIC), gguf=path.resolve())
    if path.is_file():
        if path.name not in ("config.json", PIPELINE_INDEX):
            raise UsageError(
                f"{model}: neither a config.json, a .gguf nor a .py file.",
                "Give the folder, or package.module:Class --config FILE.",
            )
        path = path.parent
    if path.is_dir():
        return _ref(wanted, model, given or _profile_of_folder(path), folder=path.resolve())
    if is_path(model):
        what = "file" if path.suffix in (".py", ".gguf") else "folder"
        raise UsageError(f"{model}: no such {what}.", "Give a local folder or a repo id (owner/name).")
    offline = wanted.offline or client.offline()
    chosen = given or choose.for_repo(model) or _profile_of_repo(model, wanted.revision, offline)
    return _ref(wanted, model, chosen, repo=model)


def is_path(model: str) -> bool:
    """Whether a name can only be a path: a repo id has one slash at most, begins with no . or /, ends in no suffix."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith((".py", ".gguf"))


def is_class_path(model: str) -> bool:
    """Whether a name has the form of a class path: `package.module:Class`."""
    return ":" in model and not Path(model).exists()


def needs_no_hub(wanted: Wanted) -> bool:
    """Whether `resolve` can tell everything without asking the hub."""
    model = wanted.model
    return model is None or wanted.profile is not None or is_class_path(model) or is_path(model)


def check(wanted: Wanted) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: they do not, or the config of a class is no JSON.
    """
    is_class = wanted.model is not None and is_class_path(wanted.model)
    if wanted.config is not None:
        if not is_class:
            raise UsageError(
                "--config goes with a class: package.module:Class.", "A folder has its own config.json."
            )
        json_object(wanted.config)
    if is_class:
        module, _, name = str(wanted.model).partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise UsageError(f"{wanted.model!r} is not a class path.", "It looks like package.module:Class.")
        if not wanted.weightless:
            raise UsageError(
                f"{wanted.model}: a class has no weights.",
                "Give --random-init, or the folder of its weights.",
            )
    if wanted.dtype is not None and wanted.dtype not in WEIGHT_DTYPES:
        raise UsageError(
            f"--dtype {wanted.dtype}: weights are not loaded in that.", f"One of {', '.join(WEIGHT_DTYPES)}."
        )
    if wanted.autocast not in (None, NO_AUTOCAST) and not profiles.is_autocast(str(wanted.autocast)):
        raise UsageError(
            f"--autocast {wanted.autocast}: no such choice.", f"It is {NO_AUTOCAST}, {profiles.AUTOCAST}."
        )
    if wanted.shrink and not wanted.weightless:
        raise UsageError("--shrink goes with --random-init.", "Stored weights fit no smaller model.")


def _default(wanted: Wanted, given: Profile | None) -> TargetRef:
    """The target that a profile knows by itself: the one given, else the default's."""
    chosen = given or profiles.load(choose.DEFAULT)
    if chosen.builder or chosen.file is not None:
        return _ref(wanted, chosen.name, chosen)
    if not chosen.models:
        raise UsageError(f"profile {chosen.name}: says nothing of where its model is.", "Give the model too.")
    return _ref(wanted, chosen.models[0], chosen, repo=chosen.models[0])


def _ref(
    wanted: Wanted,
    name: str,
    profile: Profile,
    *,
    folder: Path | None = None,
    repo: str | None = None,
    class_path: str | None = None,
    gguf: Path | None = None,
) -> TargetRef:
    return TargetRef(
        name,
        _with_wishes(profile, wanted),
        profile.autocast,
        folder=folder,
        repo=repo,
        class_path=class_path,
        file=profile.file,
        gguf=gguf,
        config=wanted.config,
        revision=wanted.revision,
        offline=wanted.offline or (repo is not None and client.offline()),
        weightless=wanted.weightless,
        shrink=wanted.shrink,
        trust_remote_code=wanted.trust_remote_code,
    )


def _with_wishes(profile: Profile, wanted: Wanted) -> Profile:
    """The profile with what the user wants otherwise."""
    if wanted.dtype is not None:
        profile = msgspec.structs.replace(profile, dtype=wanted.dtype)
    if wanted.autocast is not None:
        autocast = "" if wanted.autocast == NO_AUTOCAST else wanted.autocast
        if autocast.startswith("parts:") and not profile.casts_parts:
            raise UsageError(
                f"--autocast {autocast}: profile {profile.name} knows no parts to open regions around.",
                f"{autocast.removeprefix('parts:')} is around the whole inference.",
            )
        profile = msgspec.structs.replace(profile, autocast=autocast)
    generic = profile.adapter == profiles.load(choose.GENERIC).adapter
    tokens = wanted.new_tokens
    if tokens is None and wanted.weightless and generic:
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
    """The profile beside a user's file, of the same name; else one that says nothing."""
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
