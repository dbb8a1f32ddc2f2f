"""The parts of a diffusers pipeline, from its model_index.json: each is built from its own config."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpsprobe import toml
from mpsprobe.errors import TargetError, UsageError, docs, first_line
from mpsprobe.models.diffusers.inputs import MadeUpTokenizer
from mpsprobe.models.hub.snapshot import PIPELINE_INDEX
from mpsprobe.models.quantised import QuantisedPart, of_folder
from mpsprobe.models.weightless import from_config
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.shrink import shrink as shrunk

#: The number of layers kept of each stack.
_LAYERS = 2
#: Names of numbers of layers in configs of diffusers: transformer blocks, and blocks of a UNet's or VAE's stage.
_STACKS = {"num_layers": _LAYERS, "num_single_layers": _LAYERS, "layers_per_block": 1}
#: Names of lists with one entry for each stage: transformer layers in each attention of a UNet.
_PER_STAGE = "transformer_layers_per_block"
#: Names of lists with indices of layers of another kind (Stable Diffusion 3.5).
_KINDS = "dual_attention_layers"
#: Files of which the folder of a tokenizer holds one.
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


@dataclass(frozen=True)
class PipelinePart:
    """One component of a pipeline, as model_index.json names it.

    Attributes:
        name: The name of the pipeline's argument, such as `"unet"`.
        cls: Its class.
        folder: The component's folder in the repository, which may be missing (a tokenizer's).
        config: For a model, a config object of transformers or a config dict of diffusers; otherwise None.
        quantised: How the stored weights of a model are quantised; None for plain weights.
    """

    name: str
    cls: Any
    folder: Path
    config: Any = None
    quantised: QuantisedPart | None = None

    @property
    def is_model(self) -> bool:
        """Return whether the part is a `torch.nn.Module`, so that it has weights."""
        return isinstance(self.cls, type) and issubclass(self.cls, nn.Module)


@dataclass(frozen=True)
class Index:
    """A pipeline's class, its parts, and the plain values that its constructor takes.

    Attributes:
        pipeline: The class.
        parts: The existing parts, in the order of the index.
        absent: The names of parts that the pipeline omits.
        options: The plain values of the constructor.
    """

    pipeline: Any
    parts: tuple[PipelinePart, ...]
    absent: tuple[str, ...]
    options: dict[str, Any]


def read(folder: Path) -> Index:
    """Read the pipeline that a folder's model_index.json names.

    Raises:
        UsageError: model_index.json, or a model's config.json, cannot be read or is not a JSON object.
        TargetError: There is no diffusers or no such pipeline in it, the pipeline is the repository's own code,
            or a part has no valid name, no class or, for a model, no config.json.
    """
    diffusers = package()
    raw = toml.json_object(folder / PIPELINE_INDEX, UsageError)
    named = raw.get("_class_name")
    if isinstance(named, list):
        raise TargetError(
            f"{folder / PIPELINE_INDEX}: the pipeline is code of the repository itself, {named}, which is not run.",
            f"Make it in a target.py of your own: {docs('targets.md')}",
        )
    pipeline = getattr(diffusers, str(named), None)
    if not (isinstance(pipeline, type) and issubclass(pipeline, diffusers.DiffusionPipeline)):
        raise TargetError(
            f"{folder / PIPELINE_INDEX}: diffusers {diffusers.__version__} has no pipeline {named}.",
            f"It was written by diffusers {raw.get('_diffusers_version', '(unknown)')}.",
        )
    parts, absent, options = [], [], {}
    optional = set(getattr(pipeline, "_optional_components", ()))
    for name, value in raw.items():
        if name.startswith("_"):
            continue
        if not (isinstance(value, list) and len(value) == 2):
            options[name] = value
        elif not name.isidentifier():  # it is also a folder's name, which must not leave the repository
            raise TargetError(f"{folder / PIPELINE_INDEX}: {name!r} is no name of a part.")
        elif value[0] is None or (name in optional and not _is_there(folder, name)):
            absent.append(name)
        else:
            parts.append(_part(folder, name, str(value[0]), str(value[1])))
    return Index(pipeline, tuple(parts), tuple(absent), options)


def _is_there(folder: Path, name: str) -> bool:
    """Return whether a folder holds a part, or holds the text encoder for which a missing tokenizer is made up."""
    return (folder / name).is_dir() or (folder / name.replace("tokenizer", "text_encoder")).is_dir()


def package() -> Any:
    """Import the package diffusers and return it.

    Raises:
        TargetError: The package is not installed, or lacks a package that it needs.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as problem:
        raise TargetError(
            f"diffusers cannot be imported: {first_line(problem)}.", "pip install diffusers"
        ) from problem


def _part(folder: Path, name: str, library: str, class_name: str) -> PipelinePart:
    home = package().pipelines if library not in ("diffusers", "transformers") else None
    try:
        module = getattr(home, library) if home is not None else importlib.import_module(library)
        cls = getattr(module, class_name)
    except (ImportError, AttributeError, RuntimeError) as problem:
        raise TargetError(
            f"{folder / PIPELINE_INDEX}: {name} is {library}.{class_name}, which cannot be had: "
            f"{first_line(problem)}."
        ) from problem
    if not isinstance(cls, type):
        raise TargetError(f"{folder / PIPELINE_INDEX}: {name} is {library}.{class_name}, which is no class.")
    part = PipelinePart(name, cls, folder / name)
    if not part.is_model:
        return part
    file = folder / name / "config.json"
    if not file.is_file():
        raise TargetError(f"{folder}: {name} has no config.json.", "Every model of a pipeline has one.")
    config: Any = toml.json_object(file, UsageError)
    config_class = getattr(cls, "config_class", None)
    how = of_folder(folder / name, config)
    kind = "diffusers" if config_class is None else "transformers"
    config.pop("quantization_config", None)  # it is built with plain weights
    if config_class is not None:
        config, _ = from_config.prepared(config_class.from_dict(config))
    quantised = None if how is None else QuantisedPart(name, kind, how)
    return dataclasses.replace(part, config=config, quantised=quantised)


def stated_dtype(index: Index) -> str:
    """Return the first dtype that the config of a transformers part states; else `"float32"`, diffusers' default."""
    for part in index.parts:
        if part.is_model and not isinstance(part.config, dict):
            stated = getattr(part.config, "dtype", None) or getattr(part.config, "torch_dtype", None)
            if stated is not None:
                return str(stated).removeprefix("torch.")
    return "float32"


def shrink(index: Index) -> tuple[Index, list[str]]:
    """Return the same pipeline with fewer layers in its models, and the changes; widths and head sizes stay."""
    parts, changes = [], []
    for part in index.parts:
        if isinstance(part.config, dict):
            config, changed = _shrunk_config(part.cls, part.config)
            part = dataclasses.replace(part, config=config)
            changes += [f"{part.name}.{change}" for change in changed]
        elif part.is_model:
            smaller, said = shrunk(Blueprint(part.name, part.cls, part.config))
            part = dataclasses.replace(part, config=smaller.config)
            changes += [f"{part.name}: {text.removeprefix('Shrunk: ').rstrip('.')}" for text in said]
        parts.append(part)
    return dataclasses.replace(index, parts=tuple(parts)), changes


def _shrunk_config(cls: Any, stated: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name in (*_STACKS, _PER_STAGE)
    }
    config = {**defaults, **stated}
    smaller = dict(config)
    for name, keep in _STACKS.items():
        count = config.get(name)
        if isinstance(count, int):
            smaller[name] = min(count, keep)
        elif isinstance(count, list):
            smaller[name] = [min(one, keep) for one in count]
    stages = config.get(_PER_STAGE)
    if isinstance(stages, list) and all(isinstance(one, int) for one in stages):
        smaller[_PER_STAGE] = [min(one, 1) for one in stages]
    if isinstance(config.get(_KINDS), list):
        smaller[_KINDS] = [one for one in config[_KINDS] if one < _LAYERS]
    changed = [
        f"{name} {config[name]} -> {smaller[name]}" for name in config if smaller[name] != config[name]
    ]
    return smaller, changed


def assemble(
    index: Index, device: torch.device, dtype: str, *, initialise: bool, notes: list[str]
) -> tuple[Any, nn.Module]:
    """Build the pipeline on `device`, and a module that holds its models under their names.

    Args:
        index: The pipeline; see `read`.
        device: The device of the weights.
        dtype: The dtype of the weights.
        initialise: Whether to draw random weights from a fixed seed; otherwise they have no values, for a
            memoryless device.
        notes: A list to which sentences about substitutes and absent parts are appended.

    Raises:
        TargetError: A part, or the pipeline from its parts, cannot be built.
    """
    made: dict[str, Any] = dict.fromkeys(index.absent)
    for part in index.parts:
        if part.is_model:
            made[part.name] = from_config.build(part.cls, part.config, device, dtype, initialise=initialise)
        else:
            made[part.name] = _without_weights(index, part, notes)
    options = dict(index.options)
    if index.absent:
        notes.append(f"The pipeline goes without {', '.join(index.absent)}.")
    with _quietly(), from_config.worded(f"{index.pipeline.__name__} cannot be built", TargetError):
        pipeline = index.pipeline(**made, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, nn.ModuleDict({part.name: made[part.name] for part in index.parts if part.is_model})


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Log only diffusers' errors: it warns of licences and of parts that the index leaves out."""
    logging = package().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _without_weights(index: Index, part: PipelinePart, notes: list[str]) -> Any:
    """Build a component that has no weights: a scheduler, an image processor or a tokenizer.

    A tokenizer without files is replaced by one that makes up ids, with a sentence in `notes`.

    Raises:
        TargetError: The component's files are missing, or it cannot be built from them.
    """
    if "tokenizer" in part.name and not any((part.folder / name).is_file() for name in _TOKENIZER_FILES):
        encoder = part.name.replace("tokenizer", "text_encoder")
        config = next((one.config for one in index.parts if one.name == encoder), None)
        if config is None:
            raise TargetError(
                f"{part.folder}: neither a tokenizer's files nor a text encoder to make ids for."
            )
        notes.append(f"{part.name} has no files: token ids are made up for {encoder}.")
        return MadeUpTokenizer(config)
    own = getattr(part.cls, "config_name", None)  # set for kinds that diffusers makes from a config
    if own is not None and not (part.folder / own).is_file():
        raise TargetError(f"{part.folder}: no {own}, which {part.cls.__name__} is made from.")
    with from_config.worded(f"{part.folder}: {part.cls.__name__} cannot be built", TargetError):
        return part.cls.from_pretrained(part.folder, local_files_only=True)
