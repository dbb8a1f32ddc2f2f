"""Targets without their weights: fetch their small files, and make the adapter that builds the model."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from mpsprobe import consent
from mpsprobe.errors import MpsprobeError, TargetError, UsageError
from mpsprobe.knowledge import quantisation
from mpsprobe.models import choose, peft
from mpsprobe.models import profile as profiles
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.choose import build_snapshot, make_adapter, resolve
from mpsprobe.models.hub import client, remote_code, snapshot
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.peft import PeftAdapter
from mpsprobe.models.profile import Profile
from mpsprobe.models.quantised import SIDE_FILES
from mpsprobe.models.targets import TargetRef
from mpsprobe.models.training import trained
from mpsprobe.models.weightless import from_config, gguf
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.models.weightless.shrink import shrink as shrunk
from mpsprobe.run import SourceFinding
from mpsprobe.scan import Level, Options
from mpsprobe.scan.findings import all_rules
from mpsprobe.scan.scanner import scan
from mpsprobe.scan.sources import of_package

#: Small files of a repository besides config.json: generation, tokenizer, processor.
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
    # files of sentence encoders
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)

#: Names of repositories whose weights may be quantised, because requesting three more files of every one takes time.
_PACKED = re.compile(r"gptq|awq|fp8|fp4|int[48]|[248]-?bit|modelopt|quant|w[48]a|bnb|exl[23]", re.IGNORECASE)


def fetch(repo: str, revision: str | None = None, *, offline: bool = False) -> Path:
    """Return the folder in the Hub's cache that holds a repository's config and other small files.

    Files of its own code are fetched too, if its class is one. Offline, missing files other than the config are
    ignored.

    Raises:
        UsageError: The repository has neither config.json nor model_index.json.
        TargetError: The Hub refuses, or cannot be asked for a file that is not in the cache; or the config or the
            repository's code cannot be read.
    """
    config = client.fetch_file(repo, "config.json", revision, offline=offline)
    if config is not None:
        names = list(SMALL_FILES)
        if _PACKED.search(repo) and quantisation.find(snapshot.read_config(config.parent)) is None:
            names += SIDE_FILES
        if remote_code.is_needed(raw := snapshot.read_config(config.parent)):
            remote_code.fetch(repo, raw, revision, offline=offline)
    else:
        config = client.fetch_file(repo, snapshot.PIPELINE_INDEX, revision, offline=offline)
        if config is None:
            raise UsageError(
                f"{repo}: has no config.json.", "Is it a model of transformers, or a pipeline of diffusers?"
            )
        names = _of_parts(config.parent)
    for name in names:
        try:
            client.fetch_file(repo, name, revision, offline=offline)
        except client.HubUnreachableError:
            if not (offline or client.offline()):
                raise
    return config.parent


def _of_parts(folder: Path) -> list[str]:
    """Return the names of the small files that a pipeline's parts may have, such as `unet/config.json`."""
    names = []
    for part, value in snapshot.without_weights(folder).config.items():
        if not (isinstance(value, list) and any(value) and part.isidentifier()):
            continue
        own: tuple[str, ...]
        if "tokenizer" in part:
            own = SMALL_FILES
        elif "scheduler" in part:
            own = ("scheduler_config.json",)
        else:
            own = ("config.json", "preprocessor_config.json")
        names += [f"{part}/{name}" for name in own]
    return names


def obtain(ref: TargetRef) -> Snapshot:
    """Make, find or fetch a target's config and other small files, never its weights, and describe them.

    For a PEFT adapter they are those of its base model; for a user's file, a GGUF file and a class the description has
    only a folder. Where the Hub cannot be reached or the repository is gated, the profile's stand-in may take its
    place.

    Raises:
        MpsprobeError: The files cannot be made, found or fetched.
    """
    if ref.file is not None:
        return Snapshot(ref.file.parent, {}, (), 0, 0, {}, None)
    if ref.gguf is not None:
        return Snapshot(ref.gguf.parent, {}, (), 0, 0, {}, None)
    if ref.class_path is not None:
        folder = ref.config.resolve().parent if ref.config is not None else Path.cwd()
        return Snapshot(folder, {}, (), 0, 0, {}, ref.class_path.rpartition(":")[2])
    if ref.folder is not None:
        found = peft.read(ref.folder)
        return snapshot.without_weights(_base_of(found, ref.offline) if found is not None else ref.folder)
    if ref.repo is not None:
        try:
            if (found := _adapter_of(ref)) is not None:
                return snapshot.without_weights(_base_of(found, ref.offline))
            folder = fetch(ref.repo, ref.revision, offline=ref.offline)
        except (client.HubUnreachableError, client.GatedError):
            stands_in = ref.profile.stand_in and ref.revision is None and _names(ref.profile, ref.repo)
            if not stands_in:
                raise
            folder = resolve(ref.profile, "stand_in", ref.profile.stand_in)()
        return snapshot.without_weights(folder)
    return snapshot.without_weights(build_snapshot(ref.profile))


def make(
    ref: TargetRef, folder: Path, weights: Weights, say: Callable[[str], None] = lambda _: None
) -> tuple[Adapter, list[str]]:
    """Make the adapter that loads a target without stored weights, and list what `--shrink` changed.

    A profile with its own adapter keeps it; every other model gets `RandomInitAdapter`. For a profile that names a
    package, the list also holds findings in its source.

    Args:
        ref: The target.
        folder: The folder with its config; see `obtain`.
        weights: `RANDOM`, or `NONE` for a memoryless device.
        say: A function that is called with a line for each file of the repository's code that will run.

    Raises:
        MpsprobeError: The config names no available class or cannot be shrunk, or the user did not agree to the
            target's code.
    """
    adapter, changes = _make(ref, folder, weights, say)
    return trained(adapter, ref.settings), changes


def _make(
    ref: TargetRef, folder: Path, weights: Weights, say: Callable[[str], None]
) -> tuple[Adapter, list[str]]:
    if ref.file is None and ref.class_path is None and ref.gguf is None:
        consent.require(folder, ref.name, trusted=ref.trust_remote_code, stored=False)
    if ref.profile.adapter != profiles.load(choose.GENERIC).adapter:
        return _own(ref, folder, weights)
    blueprint = blueprint_of(ref, folder, say)
    if (found := _adapter_of(ref)) is not None:
        blueprint.notes.append(found.note(blueprint.quantised))
    return random_init(blueprint, ref.profile, weights, shrink=ref.shrink)


def blueprint_of(ref: TargetRef, folder: Path, say: Callable[[str], None] = lambda _: None) -> Blueprint:
    """Return the class and config of a target, whatever adapter its profile names; see `make` for the arguments.

    Raises:
        MpsprobeError: The class cannot be imported, is code without consent, or its config cannot be read.
    """
    if ref.gguf is not None:
        return gguf.blueprint(ref.gguf)
    if ref.class_path is not None:
        import_from_here()
        return from_config.of_class(ref.class_path, ref.config)
    raw = snapshot.read_config(folder)
    if ref.trust_remote_code and remote_code.is_needed(raw):
        for file in remote_code.files(folder, raw, offline=ref.offline):
            say(f"runs {file}")
    return from_config.of_folder(
        folder, ref.name, trust_remote_code=ref.trust_remote_code, offline=ref.offline
    )


def _adapter_of(ref: TargetRef) -> PeftAdapter | None:
    """Return the PEFT adapter in a folder or repository without a config.json; None for any other target.

    Raises:
        TargetError: The adapter's config is damaged, or the Hub cannot be asked.
    """
    if ref.folder is not None:
        return peft.read(ref.folder)
    if (
        ref.repo is None
        or client.fetch_file(ref.repo, "config.json", ref.revision, offline=ref.offline) is not None
    ):
        return None
    stated = client.fetch_file(ref.repo, peft.CONFIG, ref.revision, offline=ref.offline)
    return peft.read(stated.parent) if stated is not None else None


def _base_of(adapter: PeftAdapter, offline: bool) -> Path:
    """Return the folder with the config of an adapter's base model, found on this machine or fetched.

    Raises:
        TargetError: The base model's config is not on this machine and cannot be fetched.
    """
    found = adapter.base_folder
    if found is not None:
        return found
    try:
        return fetch(adapter.base, offline=offline)
    except MpsprobeError as problem:
        raise TargetError(
            f"{adapter.folder}: a {adapter.title}, whose config.json is not at hand: {problem.what}",
            f"mpsprobe predict {adapter.base} judges it where the Hub can be reached. {adapter.merge}",
        ) from problem


def random_init(
    blueprint: Blueprint, profile: Profile, weights: Weights, *, shrink: bool = False
) -> tuple[RandomInitAdapter, list[str]]:
    """Make the adapter of a class and config, shrunk on request.

    Returns:
        The adapter, and sentences about what `shrink` changed.
    """
    blueprint, changes = shrunk(blueprint) if shrink else (blueprint, [])
    adapter = RandomInitAdapter(blueprint.folder or Path(), profile, blueprint)
    adapter.weights = weights
    return adapter, changes


@dataclass(frozen=True)
class TargetSize:
    """The size of a model: the number of its parameters, and the bytes of parameters and buffers."""

    parameters: int
    nbytes: int


def size(adapter: Adapter, dtype: str) -> TargetSize | None:
    """Return the size of the model that an adapter loads, built on the meta device; None when that fails."""
    before, adapter.weights = adapter.weights, Weights.NONE
    nowhere = torch.device("meta")
    try:
        with nowhere:
            model = adapter.load(nowhere, dtype)
    except (Exception, SystemExit):  # constructors that read values fail without them
        return None
    finally:
        adapter.weights = before
    parameters = list(model.parameters())
    tensors = (*parameters, *model.buffers())
    return TargetSize(
        sum(one.numel() for one in parameters), sum(one.numel() * one.element_size() for one in tensors)
    )


def _names(profile: Profile, repo: str) -> bool:
    return repo.lower() in (name.lower() for name in profile.models)


def _own(ref: TargetRef, folder: Path, weights: Weights) -> tuple[Adapter, list[str]]:
    """Make the adapter that the target's profile names, without stored weights; see `make` for the result.

    Raises:
        UsageError: The adapter cannot shrink its model, and `--shrink` is given.
    """
    adapter = make_adapter(ref.profile, folder)
    adapter.weights = weights
    changes = adapter.shrink() if ref.shrink else []
    if changes is None:
        raise UsageError(
            f"{ref.name}: its profile {ref.profile.name} has an adapter of its own, which --shrink does not know.",
            f"Leave --shrink out, or give --profile {choose.GENERIC} where its class is one of transformers'.",
        )
    if ref.profile.package and weights is not Weights.NONE:  # a prediction tells which of these places ran
        changes = [*changes, *(one.sentence for one in source_findings(ref.profile.package))]
    return adapter, changes


def import_from_here() -> None:
    """Append the working directory to `sys.path`, so that a class can be imported from it, after installed ones.

    If it came first, as with `python -m`, everything would import a `json.py` in that folder.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def source_findings(
    package: str, torch: str | None = None, called: Collection[str] = ()
) -> list[SourceFinding]:
    """Return the errors and warnings that a scan finds in a package's source and scripts, by rule.

    Places in functions that ran come first, apart from the same rule's other places.

    Args:
        package: The dotted name; a package that is not installed has no findings.
        torch: The torch release of the target Mac, without findings if there is no data on it; None for the
            installed one.
        called: The places as `file:line` at which a recorded inference called ops.
    """
    try:
        found = scan(of_package(package), Options(torch=torch or metadata.version("torch")))
    except MpsprobeError:  # not installed, or no data on that release
        return []
    home = package.replace(".", "/")
    lines: dict[str, set[int]] = {}
    for place in called:
        path, _, line = place.rpartition(":")
        if line.isdigit():
            lines.setdefault(path, set()).add(int(line))
    by_rule: dict[tuple[bool, str, str], list[str]] = {}
    for one in found.findings:
        if one.severity is not Level.NOTE:
            path = one.path.replace("\\", "/")
            inside = path.partition(f"/{home}/")[2] or path
            ran = _has_run(Path(one.path), one.line, lines.get(f"{home}/{inside}", set()))
            by_rule.setdefault((not ran, one.severity.value, one.code), []).append(f"{inside}:{one.line}")
    rules = all_rules()
    return [
        SourceFinding(
            code=code,
            title=rules[code].title,
            level=level,
            places=list(dict.fromkeys(places)),
            why=rules[code].why,
            fix=rules[code].fix,
            ran=not unseen,
        )
        for (unseen, level, code), places in sorted(by_rule.items(), key=lambda item: item[0])
    ]


def _has_run(path: Path, line: int, called: Collection[int]) -> bool:
    """Return whether ops were called in the function around a line; outside functions, anywhere in its file."""
    if not called:
        return False
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    functions = [
        (one.lineno, one.end_lineno or one.lineno)
        for one in ast.walk(tree)
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
        and one.lineno <= line <= (one.end_lineno or 0)
    ]
    first, last = max(functions, default=(0, sys.maxsize))
    return any(first <= each <= last for each in called)
