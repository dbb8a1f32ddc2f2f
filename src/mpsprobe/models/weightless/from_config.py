"""Build models from their config only: the class that it names, without weights or with random ones."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mpsprobe import toml
from mpsprobe.errors import TargetError, UsageError, first_line
from mpsprobe.knowledge import quantisation
from mpsprobe.knowledge.quantisation import Quantised
from mpsprobe.models import conflicts
from mpsprobe.models import quantised as quantised_folders
from mpsprobe.models.hub import remote_code, snapshot
from mpsprobe.models.hub.snapshot import architecture, read_config
from mpsprobe.models.weightless import feed, plain_module, unfed
from mpsprobe.models.weightless.feed import StatedInput
from mpsprobe.models.weightless.weights_dtype import (
    by_part,
    default_dtype,
    dtype_of,
    in_dtype,
    keep_in_float32,
)

#: The seed of random weights.
SEED = 20251031
#: Parameters with up to this many elements get values even where weights are left out, because code may read
#: them (scales, gates), and uninitialised memory would differ from run to run.
_SMALL = 1 << 16
_CPU = torch.device("cpu")
#: Empty tensors of more elements than this, which are 1 GiB in float32, are not made on the CPU.
_HUGE = 1 << 28


@dataclass(frozen=True)
class Blueprint:
    """A class with its config, from which a model can be built.

    Attributes:
        name: The target as the user named it.
        model_class: A `PreTrainedModel`, any other `nn.Module`, or a function that makes one.
        config: Its config object; for a class or function without one, a dict of its arguments.
        folder: The folder that may hold a tokenizer or processor; None when there is no folder.
        notes: Sentences about decisions that were made for the user.
        feed: The input of the model, if its config file states it (see `models.weightless.feed`); else None.
        quantised: How its checkpoint is quantised; None where nothing states it. The model is built with plain
            weights in any case.
    """

    name: str
    model_class: type[nn.Module]
    config: Any
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)
    feed: StatedInput | None = None
    quantised: Quantised | None = None

    @property
    def library(self) -> str:
        """Return the library whose `from_pretrained` loads its weights: `diffusers`, or else `transformers`."""
        return "diffusers" if self.model_class.__module__.partition(".")[0] == "diffusers" else "transformers"

    @property
    def is_pretrained(self) -> bool:
        """Return whether the class has a config object, as in transformers, that determines its input."""
        return not isinstance(self.config, dict)


def of_folder(
    folder: Path, name: str = "", *, trust_remote_code: bool = False, offline: bool = False
) -> Blueprint:
    """Return the class and config of a folder that holds at least `config.json`.

    Without a class in its config, the class is the plain model of its `model_type`.

    Args:
        folder: The folder of a model, which need not hold weights.
        name: The target as the user named it; `""` for the folder's path.
        trust_remote_code: Whether to run the repository's own code if its class is not one of transformers'.
        offline: Whether to search for code of another repository in the cache only.

    Raises:
        TargetError: The config is missing, malformed or names no available class, or its class is code that may not
            run; the hint says what would help.
    """
    raw = read_config(folder)
    named = architecture(raw)
    if remote_code.is_needed(raw):
        if not trust_remote_code:
            raise remote_code.refusal(folder, raw, offline=offline)
        cls, config = remote_code.load(folder, raw, offline=offline)
        config, notes = prepared(config)
        return Blueprint(
            name or str(folder),
            cls,
            config,
            folder,
            [*notes, *snapshot.remarks(folder)],
            quantised=quantised_folders.of_folder(folder, raw),
        )
    config = _auto_config(folder, raw)
    config, notes = prepared(config)
    notes += snapshot.remarks(folder)
    if named is None:
        cls = _base_class(folder, config)
        notes = [f"config.json names no class: {cls.__name__}, the plain model of its type.", *notes]
    else:
        cls = transformers_class(named, folder, raw)
    return Blueprint(
        name or str(folder), cls, config, folder, notes, quantised=quantised_folders.of_folder(folder, raw)
    )


def of_config(raw: dict[str, Any], name: str) -> Blueprint:
    """Return the class and config for `raw`, the content of a `config.json` that is not in a folder.

    Raises:
        TargetError: The installed transformers cannot read the config, or has no such class.
    """
    from transformers import AutoConfig

    with worded(f"{name}: transformers cannot read its config", TargetError):
        config = AutoConfig.for_model(**raw)
    config, notes = prepared(config)
    return Blueprint(name, transformers_class(str(architecture(raw)), Path(name), raw), config, None, notes)


def of_class(spec: str, config_file: Path | None) -> Blueprint:
    """Import a class, or a function that makes a model, and return it with its config or arguments.

    Args:
        spec: The path as `package.module:Class`.
        config_file: A JSON file with its config, or with its constructor's arguments; None where it needs none.

    Raises:
        UsageError: The spec, the class or the file cannot be used.
    """
    cls = _imported(spec)
    values = toml.json_object(config_file, UsageError) if config_file is not None else {}
    stated = feed.take(values, str(config_file))
    config_class = getattr(cls, "config_class", None)
    folder = config_file.parent if config_file is not None else None
    if config_class is None:
        quantised = quantisation.find(values)
        values, notes = plain_module.at_hand(cls, values)
        return Blueprint(spec, cls, values, folder, notes, stated, quantised)
    hint = (
        f"Give the config.json of a checkpoint of it (--config FILE), with the transformers that {cls.__module__} is "
        f"written for, which its requirements name: {metadata.version('transformers')} is installed."
    )
    with worded(f"{config_file or spec}: not a config of {cls.__name__}", hint=hint):
        config, notes = prepared(config_class.from_dict(values))
    return Blueprint(spec, cls, config, folder, notes, stated, quantisation.find(values))


def build(
    cls: type[nn.Module],
    config: Any,
    device: torch.device,
    dtype: str = "auto",
    attention: str = "",
    *,
    initialise: bool,
) -> nn.Module:
    """Build a model of that class and config, in eval mode, on `device`.

    Args:
        cls: The class; see `Blueprint.model_class`.
        config: The config; see `Blueprint.config`.
        device: The device. With `initialise` the model is made on the CPU and then moved.
        dtype: The dtype of the weights; `"auto"` for that of the config.
        attention: The attn_implementation; `""` for the default of the class.
        initialise: Whether to draw random weights from a fixed seed. They are drawn in the dtype that the config
            states, as if a checkpoint held them, so that they are the same in every dtype. Otherwise large
            parameters have no values, for a memoryless device, unless the constructor itself computes with them.

    Raises:
        TargetError: The class cannot be built from this config.
        UsageError: There is no such dtype in torch.
    """
    weights_dtype = dtype_of(config, dtype)
    if dtype != "auto" and isinstance(
        getattr(config, "dtype", None), dict
    ):  # one for all parts was asked for
        config = copy.deepcopy(config)
        config.dtype = weights_dtype
    if not initialise and isinstance(config, dict) and plain_module.computes(cls, config):
        # as users do, because a constructor that computes (a stride found by a forward pass) needs values
        return plain_module.moved(
            _constructed(cls, config, _CPU, weights_dtype, attention, draw=True), device
        )
    if not initialise:
        model = _constructed(cls, config, device, weights_dtype, attention, draw=False)
        return plain_module.moved(model, device)
    drawn_in = dtype_of(config)
    try:
        model = _constructed(cls, config, _CPU, drawn_in, attention, draw=True)
    except TargetError as problem:
        if not isinstance(problem.__cause__, NotImplementedError) or drawn_in is torch.float32:
            raise
        # orthogonal matrices (RWKV) cannot be drawn in a narrower dtype
        wide = _constructed(cls, config, _CPU, torch.float32, attention, draw=True)
        model = _in_another(wide, cls, config, drawn_in, attention)
    if weights_dtype is not drawn_in:
        model = _in_another(model, cls, config, weights_dtype, attention)
    return plain_module.moved(model, device)


def _constructed(
    cls: type[nn.Module], config: Any, device: torch.device, dtype: torch.dtype, attention: str, *, draw: bool
) -> nn.Module:
    """Construct a model in eval mode; without `draw`, only small parameters have values, the rest is on `device`."""
    weightless = contextlib.nullcontext() if draw else _no_weights(device)
    step = ""
    if isinstance(config, dict):
        step = f"Write a target.py that builds it as its users do: mpsprobe target new {cls.__module__}:{cls.__name__}"
    elif dtype.itemsize == 1:  # no default dtype, in which from_pretrained builds
        step = f"from_pretrained raises the same for {dtype}. Give another dtype: --dtype bfloat16"
    else:
        step = _correction({"transformers_version": getattr(config, "transformers_version", None)})
    with worded(f"{cls.__name__} cannot be built from its config", TargetError, step):
        if draw:
            torch.manual_seed(SEED)
        if isinstance(config, dict):
            with weightless, default_dtype(dtype):
                model = plain_module.construct(cls, copy.deepcopy(config))
        else:
            config = in_dtype(config, dtype)
            options = {"attn_implementation": attention} if attention else {}
            with weightless:
                model = cls._from_config(config, dtype=dtype, **options)  # type: ignore[attr-defined]
            if not draw:
                model.tie_weights()  # transformers 5 ties weights only when it initialises
            keep_in_float32(model, dtype)
    if not draw:
        _settle(model)
    return model.eval()


def _in_another(
    drawn: nn.Module, cls: type[nn.Module], config: Any, dtype: torch.dtype, attention: str
) -> nn.Module:
    """Build the model again in another dtype, with the drawn weights cast to it, as if a checkpoint had stored them."""
    model = _constructed(cls, config, _CPU, dtype, attention, draw=False)
    model.load_state_dict(drawn.state_dict())
    return model


def transformers_class(named: str, folder: Path, raw: dict[str, Any]) -> type[nn.Module]:
    """Return the class with this name in the installed transformers.

    Args:
        named: The name of the class.
        folder: The folder or name of the target, for errors.
        raw: The content of its config.json, for errors.

    Raises:
        TargetError: There is none, or it needs a package that is not installed.
    """
    import transformers

    cls: Any
    try:
        cls = getattr(transformers, named, None)
    except (ImportError, RuntimeError) as problem:
        raise TargetError(
            f"{folder}: {named} cannot be imported: {first_line(problem)}", "Install what is missing."
        ) from problem
    if cls is None:
        raise TargetError(
            f"{folder}: transformers {transformers.__version__} has no class {named}.",
            f"Its config was written by transformers {raw.get('transformers_version', '(unknown)')}.",
        )
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TargetError(
            f"{folder}: {named} needs a package that is not installed.", "Install it, then try again."
        )
    return cls


def _auto_config(folder: Path, raw: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    if not isinstance(raw.get("model_type"), str):
        raise unfed.refusal(folder, raw, str(folder))
    step = _correction(raw, folder / "config.json")
    with worded(f"{folder / 'config.json'}: transformers cannot read it", TargetError, step):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _correction(raw: dict[str, Any], file: Path | None = None) -> str:
    """Return the next step for a config that transformers cannot read or build from."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    stated = raw.get("dtype", raw.get("torch_dtype"))
    if isinstance(stated, str) and not isinstance(getattr(torch, stated, None), torch.dtype):
        return f'It states the dtype {stated!r}. Write the plain name of one of torch: "dtype": "bfloat16".'
    if file is not None and raw.get("model_type") not in CONFIG_MAPPING_NAMES:
        return (
            f"Its class comes with a later transformers, or with a package of its own: mpsprobe predict "
            f"PACKAGE:{architecture(raw) or 'CLASS'} --config {file} builds it once that is installed."
        )
    wrote = raw.get("transformers_version")
    by = f"It was written by transformers {wrote}, and " if isinstance(wrote, str) else ""
    here = f"{transformers.__version__} is installed"
    return f"{by}{here}: install the release that the model's card names, or correct that value."


def _base_class(folder: Path, config: Any) -> type[nn.Module]:
    from transformers import AutoModel

    mapping = AutoModel._model_mapping
    if type(config) not in mapping:
        raise TargetError(
            f"{folder / 'config.json'}: names no class in architectures.",
            'Add the class that the weights are of, as in "architectures": ["LlamaForCausalLM"].',
        )
    found: Any = mapping[type(config)]
    cls: type[nn.Module] = found[0] if isinstance(found, tuple) else found
    return cls


def prepared(config: Any) -> tuple[Any, list[str]]:
    """Change a config so that a model can be built from it here, and return it with notes.

    Quantisation is removed and Mamba's CUDA kernels are switched off. The notes are on those kernels, and on a dtype
    that is not stated, or stated for each part.

    Raises:
        TargetError: The config states a dtype by part that torch does not have.
    """
    notes = []
    quantised = quantisation.find(config.to_dict())
    for part in (config, getattr(config, "text_config", None)):
        for key in ("quantization_config", "quantization"):
            if part is not None and getattr(part, key, None) is not None:
                delattr(part, key)
    if getattr(config, "use_mamba_kernels", False):  # Jamba and Zamba raise without the kernels
        config.use_mamba_kernels = False
        notes.append("use_mamba_kernels is set to False, as it must be on a Mac: those kernels are CUDA's.")
    stated = getattr(config, "dtype", None) or getattr(getattr(config, "text_config", None), "dtype", None)
    chosen = quantised.method.unstated if quantised is not None and quantised.method is not None else ""
    if stated is None and quantised is not None and chosen:
        config.dtype = getattr(torch, chosen)
        notes.append(f"The config states no dtype: {chosen}, which transformers takes for {quantised.title}.")
    elif stated is None:
        notes.append("The config states no dtype: float32.")
    elif isinstance(stated, dict):
        notes.append(by_part(stated))
    return config, notes


@contextlib.contextmanager
def _no_weights(device: torch.device) -> Iterator[None]:
    """Put new parameters on a memoryless device and skip their initialisation, while the context lasts.

    Everything else that a constructor computes (frequencies, position tables) is computed on the CPU and moved
    later, as in `from_pretrained` (accelerate's init_empty_weights), so its float64 tensors on the CPU are no fault.
    """
    try:  # transformers 5
        no_init_weights = importlib.import_module("transformers.initialization").no_init_weights
    except ImportError:
        from transformers.modeling_utils import no_init_weights
    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device != device:
            param = nn.Parameter(param.to(device), param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        with no_init_weights(), _HugeElsewhere(device):
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class _HugeElsewhere(TorchFunctionMode):
    """Make empty tensors of more than `_HUGE` elements on a memoryless device instead of the CPU.

    transformers 5 makes all experts of a layer as one parameter, `torch.empty(256, 4096, 7168)`: 30 GB on the CPU,
    before it can be moved. No code reads an empty tensor, so it may be created elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None and _elements(args, kwargs) > _HUGE:
            kwargs["device"] = self._device
        return func(*args, **kwargs)


def _elements(args: Any, kwargs: dict[str, Any]) -> int:
    """Return the number of elements that a call of `torch.empty` requests; 0 where its sizes are not plain numbers."""
    sizes = kwargs.get("size", args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args)
    return math.prod(sizes) if all(isinstance(one, int) for one in sizes) else 0


@torch.no_grad()
def _settle(model: nn.Module) -> None:
    """Fill small parameters of a memoryless model: 1 for scales, 0 for offsets, distinct small numbers for others."""
    for name, parameter in model.named_parameters():
        if parameter.numel() > _SMALL or not parameter.is_floating_point():
            continue
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() < 2:
            parameter.fill_(1.0)
        else:
            parameter.copy_(torch.linspace(-0.02, 0.02, parameter.numel()).view(parameter.shape))


def _imported(spec: str) -> type[nn.Module]:
    module_name, colon, attribute = spec.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"{spec!r} is not a class path.", "It looks like package.module:Class.")
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as problem:
        said, command = conflicts.explain(problem)
        raise UsageError(
            f"{spec}: {module_name} cannot be imported: {said or first_line(problem)}",
            command or conflicts.absent(problem),
        ) from problem
    except (Exception, SystemExit) as problem:  # a user's module may raise anything
        said, command = conflicts.explain(problem)
        raise UsageError(
            f"{spec}: {module_name} cannot be imported: {said or f'{type(problem).__name__}: {first_line(problem)}'}",
            command or conflicts.raised_in(problem),
        ) from problem
    if found is None:
        raise UsageError(f"{spec}: {module_name} has no {attribute}.")
    is_model = isinstance(found, type) and issubclass(found, nn.Module)
    if not is_model and (isinstance(found, type) or not callable(found)):
        raise UsageError(
            f"{spec}: neither a class of torch.nn.Module nor a function that makes one.",
            f"Write a target.py that makes the model: mpsprobe target new {spec}.",
        )
    model: type[nn.Module] = found
    return model


@contextlib.contextmanager
def worded(what: str, kind: type[TargetError | UsageError] = UsageError, hint: str = "") -> Iterator[None]:
    """Turn an exception of a model's class or config into an error of one line while the block runs.

    A `TargetError` or `UsageError` passes unchanged.

    Args:
        what: The beginning of the message, unless a conflict of installed packages explains the exception.
        kind: The class of the error.
        hint: The next step; a command that solves such a conflict takes its place.

    Raises:
        TargetError: The block raised another exception, and `kind` is this class.
        UsageError: The same, where `kind` is this one.
    """
    try:
        yield
    except (TargetError, UsageError):
        raise
    except (Exception, SystemExit) as problem:  # a model must not end the program
        said, command = conflicts.explain(problem)
        raise kind(
            said or f"{what}: {type(problem).__name__}: {first_line(problem)}", command or hint
        ) from problem
