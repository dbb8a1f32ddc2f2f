"""What a user means by MODEL when no weights are wanted, and the adapter that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.models import choose, from_config, hub, remote_code, snapshot, targets
from mpsprobe.models import profile as profiles
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.from_config import Blueprint
from mpsprobe.models.profile import Profile
from mpsprobe.models.random_init import NEW_TOKENS, RandomInitAdapter
from mpsprobe.models.registry import build_snapshot, make_adapter
from mpsprobe.models.shrink import shrink

#: What a repository may have beside its weights, fetched one by one: config, generation, tokenizer, processor.
SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


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
        return _generic(wanted, from_config.of_class(str(wanted.model), wanted.config))
    folder, name, profile = _find(wanted)
    if profile.name != choose.GENERIC:
        adapter = make_adapter(profile, folder)
        adapter.weights = Weights.NONE
        if wanted.shrink:
            raise UsageError(
                f"{name}: its profile {profile.name} has an adapter of its own, which --shrink does not know.",
                "Leave --shrink out: a prediction takes no memory.",
            )
        return Target(name, adapter, wanted.dtype if wanted.dtype != "auto" else profile.dtype)
    raw = snapshot.read_config(folder)
    if wanted.trust_remote_code and remote_code.is_needed(raw):
        for file in remote_code.files(folder, raw):
            say(f"runs {file}")
    return _generic(wanted, from_config.of_folder(folder, name, trust_remote_code=wanted.trust_remote_code))


def _generic(wanted: Wanted, blueprint: Blueprint) -> Target:
    notes: list[str] = []
    if wanted.shrink:
        blueprint, notes = shrink(blueprint)
    generic = profiles.load(choose.GENERIC)
    profile = msgspec.structs.replace(
        generic, dtype=wanted.dtype, inference={**generic.inference, "max_new_tokens": wanted.new_tokens}
    )
    adapter = RandomInitAdapter(blueprint.folder or Path(), profile, blueprint)
    adapter.weights = Weights.NONE
    return Target(blueprint.name, adapter, wanted.dtype, notes)


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
    folder = _fetch(model, wanted.revision)
    return folder, model, choose.for_repo(model) or choose.for_config(folder)


def _fetch(repo: str, revision: str | None) -> Path:
    """The folder in the hub's cache that holds a repository's small files."""
    config = hub.fetch_file(repo, "config.json", revision)
    if config is None:
        raise UsageError(f"{repo}: has no config.json.", "Is it a transformers model?")
    for name in SMALL_FILES:
        hub.fetch_file(repo, name, revision)
    raw = snapshot.read_config(config.parent)
    for name in remote_code.modules(raw):
        hub.fetch_file(repo, name, revision)
    return config.parent
