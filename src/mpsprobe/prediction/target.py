"""What a user means by MODEL when no weights are wanted, and the adapter that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.models import choose, config_only, from_config, remote_code, snapshot, targets
from mpsprobe.models import profile as profiles
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.profile import Profile
from mpsprobe.models.random_init import NEW_TOKENS
from mpsprobe.models.registry import build_snapshot


@dataclass(frozen=True)
class Wanted:
    """What is to be predicted.

    Attributes:
        model: repo id, folder, `config.json`, class path, or None for the default target.
        config: JSON file for a class path.
        new_tokens: of generating models.
        dtype: of the weights, `"auto"` for what the config says.
        shrink: with fewer layers.
        revision: of a repo id.
        trust_remote_code: run the repository's own code.
    """

    model: str | None = None
    config: Path | None = None
    new_tokens: int = NEW_TOKENS
    dtype: str = "auto"
    shrink: bool = False
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Target:
    """A target without weights.

    Attributes:
        name: as the user gave it, or the default target's name.
        adapter: builds, feeds and runs it.
        dtype: asked for.
        notes: what was changed, one sentence each.
    """

    name: str
    adapter: Adapter
    dtype: str
    notes: list[str] = field(default_factory=list)


def resolve(wanted: Wanted, say: Callable[[str], None] = lambda _: None) -> Target:
    """Find the class, the config and the adapter.

    Args:
        wanted: what the user asked for.
        say: is told what foreign code will run, before it does.

    Raises:
        MpsprobeError: it cannot be had; one line, with what would help.
    """
    if wanted.config is not None and not _is_class_path(wanted.model):
        raise UsageError(
            "--config goes with a class: package.module:Class.", "A folder has its own config.json."
        )
    if _is_class_path(wanted.model):
        blueprint = from_config.of_class(str(wanted.model), wanted.config)
        profile = _with_wishes(profiles.load(choose.GENERIC), wanted)
        made, changes = config_only.random_init(blueprint, profile, Weights.NONE, shrink=wanted.shrink)
        return Target(blueprint.name, made, wanted.dtype, changes)
    folder, name, profile = _find(wanted)
    if profile.name == choose.GENERIC:
        profile = _with_wishes(profile, wanted)
        raw = snapshot.read_config(folder)
        if wanted.trust_remote_code and remote_code.is_needed(raw):
            for file in remote_code.files(folder, raw):
                say(f"runs {file}")
    adapter, changes = config_only.adapter_for(
        folder,
        profile,
        Weights.NONE,
        shrink=wanted.shrink,
        trust_remote_code=wanted.trust_remote_code,
        name=name,
    )
    return Target(name, adapter, wanted.dtype if wanted.dtype != "auto" else profile.dtype, changes)


def _with_wishes(profile: Profile, wanted: Wanted) -> Profile:
    inference = {**profile.inference, "max_new_tokens": wanted.new_tokens}
    return msgspec.structs.replace(profile, dtype=wanted.dtype, inference=inference)


def _is_class_path(model: str | None) -> bool:
    return model is not None and ":" in model and not Path(model).exists()


def _find(wanted: Wanted) -> tuple[Path, str, Profile]:
    """The folder with the config, the target's name and its profile."""
    model = wanted.model
    if model is None:
        profile = profiles.load(choose.DEFAULT)
        return build_snapshot(profile), profile.name, profile
    path = Path(model).expanduser()
    if path.is_file():
        if path.name != "config.json":
            raise UsageError(
                f"{model}: not a config.json.", "Give the folder, or package.module:Class --config FILE."
            )
        path = path.parent
    if path.is_dir():
        return path, model, choose.for_config(path)
    if targets.is_path(model):
        raise UsageError(f"{model}: no such folder.", "Give a local folder or a repo id (owner/name).")
    folder = config_only.fetch(model, wanted.revision)
    return folder, model, choose.for_repo(model) or choose.for_config(folder)
