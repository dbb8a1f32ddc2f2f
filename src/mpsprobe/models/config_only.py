"""Targets without their weights: what is fetched of a repository, and the adapter that builds the rest."""

from __future__ import annotations

from pathlib import Path

from mpsprobe.errors import UsageError
from mpsprobe.models import from_config, hub, remote_code, snapshot
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.choose import GENERIC
from mpsprobe.models.from_config import Blueprint
from mpsprobe.models.profile import Profile
from mpsprobe.models.random_init import RandomInitAdapter
from mpsprobe.models.registry import make_adapter
from mpsprobe.models.shrink import shrink as shrunk

#: What a repository may have beside config.json and its weights: generation, tokenizer, processor.
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


def fetch(repo: str, revision: str | None = None) -> Path:
    """The folder in the hub's cache that holds a repository's config and other small files.

    Offline, what the cache lacks beside the config is done without.

    Raises:
        UsageError: the repository has no config.json.
        TargetError: as `hub.preflight` does.
    """
    config = hub.fetch_file(repo, "config.json", revision)
    if config is None:
        raise UsageError(f"{repo}: has no config.json.", "Is it a transformers model?")
    for name in (*SMALL_FILES, *remote_code.modules(snapshot.read_config(config.parent))):
        try:
            hub.fetch_file(repo, name, revision)
        except hub.HubUnreachableError:
            if not hub.offline():
                raise
    return config.parent


def adapter_for(
    folder: Path,
    profile: Profile,
    weights: Weights,
    *,
    shrink: bool = False,
    trust_remote_code: bool = False,
    name: str = "",
) -> tuple[Adapter, list[str]]:
    """The adapter that loads a folder's model without its weights, and what `shrink` changed.

    A profile with an adapter of its own keeps it; every other model gets `RandomInitAdapter`.

    Args:
        folder: with at least `config.json`.
        profile: the profile in force.
        weights: `RANDOM`, or `NONE` for a device without memory.
        shrink: with fewer layers.
        trust_remote_code: run the repository's own code.
        name: as the user gave it.

    Raises:
        MpsprobeError: the config names no class that can be had, or cannot be shrunk.
    """
    if profile.name == GENERIC:
        blueprint = from_config.of_folder(folder, name, trust_remote_code=trust_remote_code)
        return random_init(blueprint, profile, weights, shrink=shrink)
    if shrink:
        raise UsageError(
            f"{name or folder}: its profile {profile.name} has an adapter of its own, which --shrink does not know.",
            "Leave --shrink out: a prediction takes no memory.",
        )
    adapter = make_adapter(profile, folder)
    adapter.weights = weights
    return adapter, []


def random_init(
    blueprint: Blueprint, profile: Profile, weights: Weights, *, shrink: bool = False
) -> tuple[RandomInitAdapter, list[str]]:
    """The same for a class and config at hand."""
    blueprint, changes = shrunk(blueprint) if shrink else (blueprint, [])
    adapter = RandomInitAdapter(blueprint.folder or Path(), profile, blueprint)
    adapter.weights = weights
    return adapter, changes
