"""Write a first `target.py` for a model: its loading and a sample, from config, signature and documentation."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpsprobe.errors import MpsprobeError, TargetError
from mpsprobe.models.hub import snapshot
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import config_only, from_config, guessed, plain_module
from mpsprobe.options import Settings, is_class_path

_TODO = "TODO"


@dataclass(frozen=True)
class Parts:
    """The pieces of text that are put into a target.py for one model.

    Attributes:
        imports: The import lines at its top.
        load: The body of `load(device, dtype, weights)`, which sets `model`.
        sample: The entries of the sample: name, expression and a remark.
        call: The expression over `model` and `batch` that `infer` returns.
    """

    imports: tuple[str, ...]
    load: tuple[str, ...]
    sample: tuple[tuple[str, str, str], ...]
    call: str = "model(**batch)"


def write(model: str, config: Path | None = None, *, offline: bool = False) -> str:
    """Return the text of a `target.py` for a model; a repository's code is read and never run, but a class is imported.

    Args:
        model: A folder, a repo id, or `package.module:Class`.
        config: The file with the arguments of a class; None for its defaults.
        offline: Whether to use only the cache.

    Raises:
        MpsprobeError: The model cannot be found, or its config cannot be read.
    """
    if is_class_path(model):
        return _text(model, _of_class(model, config))
    folder = _folder(model, offline)
    raw = snapshot.read_config(folder)
    for kind in (_lerobot, _timm, _remote_code, _transformers):
        parts = kind(model, folder, raw)
        if parts is not None:
            return _text(model, parts)
    return _text(
        model,
        Parts((), (f"model = None  # {_TODO}: make the model that {folder} holds",), _unknown("inputs")),
    )


# ---------------------------------------------------------------------------------------------------------- kinds


def _folder(model: str, offline: bool) -> Path:
    ref = resolve(Settings(model=model, random_init=True, offline=offline))
    if ref.folder is not None:
        return ref.folder
    if ref.repo is None:
        raise TargetError(f"{model}: neither a folder, a repository nor a class.", "Name one of these.")
    return config_only.fetch(ref.repo, ref.revision, offline=ref.offline)


def _lerobot(model: str, _: Path, raw: dict[str, Any]) -> Parts | None:
    features = raw.get("input_features")
    if not (isinstance(raw.get("type"), str) and isinstance(features, dict)):
        return None
    entries = []
    for name, feature in features.items():
        shape = [1, *feature.get("shape", [1])] if isinstance(feature, dict) else [1]
        entries.append((name, f"torch.rand({shape})", f"{feature.get('type', '')}, from config.json"))
    if "task" not in features:
        entries.append(("task", '["pick up the cube"]', "for policies that read text; others ignore it"))
    return Parts(
        (
            "from lerobot.configs.policies import PreTrainedConfig",
            "from lerobot.policies.factory import get_policy_class",
        ),
        (
            f"config = PreTrainedConfig.from_pretrained({model!r})",
            "config.device = str(device)",
            "cls = get_policy_class(config.type)",
            f'model = cls.from_pretrained({model!r}, config=config) if weights == "stored" else cls(config)',
            "model.reset()",
        ),
        tuple(entries),
        'model.select_action({name: value for name, value in batch.items() if name != "noise"})',
    )


def _timm(_model: str, _: Path, raw: dict[str, Any]) -> Parts | None:
    name = raw.get("architecture")
    if not isinstance(name, str) or "pretrained_cfg" not in raw:
        return None
    size = (
        raw["pretrained_cfg"].get("input_size", [3, 224, 224])
        if isinstance(raw["pretrained_cfg"], dict)
        else [3, 224, 224]
    )
    return Parts(
        ("import timm",),
        (f'model = timm.create_model({name!r}, pretrained=weights == "stored")',),
        (("x", f"torch.rand({[1, *size]})", "normalised as its pretrained_cfg says"),),
    )


def _remote_code(model: str, folder: Path, raw: dict[str, Any]) -> Parts | None:
    named = raw.get("auto_map")
    if not isinstance(named, dict):
        return None
    auto = next(
        (
            one
            for one in (
                "AutoModelForCausalLM",
                "AutoModelForVision2Seq",
                "AutoModelForImageTextToText",
                "AutoModel",
            )
            if one in named
        ),
        None,
    )
    auto = auto or next((one for one in named if one.startswith("AutoModel")), "AutoModel")
    reference = named.get(auto)
    entries = _signature(folder, reference) if isinstance(reference, str) else []
    return Parts(
        (f"from transformers import AutoConfig, {auto}",),
        (
            f"# this runs the code of {model}: read it first",
            'if weights == "stored":',
            f"    model = {auto}.from_pretrained({model!r}, trust_remote_code=True, dtype=dtype)",
            "else:",
            f"    config = AutoConfig.from_pretrained({model!r}, trust_remote_code=True)",
            f"    model = {auto}.from_config(config, trust_remote_code=True, dtype=dtype)",
        ),
        tuple(entries) or _unknown("input_ids"),
    )


def _transformers(model: str, _: Path, raw: dict[str, Any]) -> Parts | None:
    named = snapshot.architecture(raw)
    if named is None:
        return None
    import transformers

    cls = getattr(transformers, named, None)
    if not isinstance(cls, type):
        return None
    forward = getattr(cls, "forward")  # noqa: B009
    needed = {one.name: one.annotation for one in guessed.required(forward)}
    main = getattr(cls, "main_input_name", None)
    names = [name for name in inspect.signature(forward).parameters if name in needed or name == main]
    entries = tuple(_documented(cls, name, needed.get(name, "")) for name in names)
    return Parts(
        (f"from transformers import AutoConfig, {named}",),
        (
            'if weights == "stored":',
            f"    model = {named}.from_pretrained({model!r}, dtype=dtype)",
            "else:",
            f"    model = {named}._from_config(AutoConfig.from_pretrained({model!r}), dtype=dtype)",
        ),
        entries or _unknown("input_ids"),
    )


def _documented(cls: type, name: str, annotation: str) -> tuple[str, str, str]:
    """Return the sample's entry for an argument, with the axes that the docstring of forward states in its remark."""
    value, remark = _value(name, annotation)
    axes, _ = guessed.documented(cls, name)
    return name, value, f"({', '.join(axes)}), {remark}" if axes else remark


def _of_class(spec: str, config: Path | None) -> Parts:
    config_only.import_from_here()
    module, _, name = spec.partition(":")
    blueprint = from_config.of_class(spec, config)
    values = blueprint.config if isinstance(blueprint.config, dict) else {}
    arguments = ", ".join(f"{key}={value!r}" for key, value in values.items())
    forward: Any = getattr(blueprint.model_class, "forward", None)
    try:
        found = plain_module.inputs(blueprint.model_class, values, torch.float32)
        entries = tuple(
            (key, _tensor(value), "made up: its forward pass took it") for key, value in found.items()
        )
    except MpsprobeError:
        if forward is None:  # a factory, whose product has one
            forward = getattr(_made(blueprint.model_class, values), "forward", None)
        needs = guessed.required(forward) if forward is not None else []
        entries = tuple((one.name, *_value(one.name, one.annotation)) for one in needs)
    return Parts(
        (f"from {module} import {name}",),
        ('with torch.device("cpu"):', f"    model = {name}({arguments})  # yours reads a checkpoint here"),
        entries or _unknown("x"),
    )


def _made(factory: Any, values: dict[str, Any]) -> Any:
    """Return the model that a factory makes on the meta device; None where it fails."""
    try:
        with torch.device("meta"):
            return factory(**values)
    except Exception:  # a user's function may raise anything; the skeleton then has no inputs
        return None


def _tensor(value: Any) -> str:
    if not hasattr(value, "shape"):
        return repr(value)
    shape = list(value.shape)
    if value.dtype.is_floating_point:
        return f"torch.rand({shape})"
    if str(value.dtype) == "torch.bool":
        return f"torch.ones({shape}, dtype=torch.bool)"
    return f"torch.randint(0, {max(1, int(value.max()) + 1)}, {shape})"


def _value(name: str, annotation: str) -> tuple[str, str]:
    """Return a guessed expression for an argument, by its annotation and name, and a remark about the guess."""
    said = f"{annotation or 'no annotation'}: {_TODO}, a real one"
    outer = re.match(r"(?:typing\.)?(list|dict)\b", annotation, re.IGNORECASE)
    if outer is not None:
        return ("[]" if outer[1].lower() == "list" else "{}"), said
    if re.fullmatch(r"bool|int|float|str", annotation):
        return {"bool": "False", "int": "1", "float": "1.0", "str": '""'}[annotation], said
    if annotation and not re.search(r"[Tt]ensor|Float\[|Int\[|ndarray|Any|None", annotation):
        return "None", said  # an object of the package
    if re.search(r"Long|Int(Tensor|\[)", annotation):
        return "torch.zeros([1, 32], dtype=torch.int64)", said
    if "mask" in name:
        return "torch.ones([1, 32], dtype=torch.int64)", said
    if re.search(r"(ids|tokens|flags|labels|sizes|grid|positions?)$", name):
        return "torch.ones([1, 32], dtype=torch.int64)", said
    if re.search(r"(pixel|image|img|frame)", name):
        return "torch.rand([1, 3, 224, 224])", said
    if re.search(r"(audio|wav|input_values|speech)", name):
        return "torch.rand([1, 16000])", said
    return "torch.rand([1, 32])", said


def _unknown(name: str) -> tuple[tuple[str, str, str], ...]:
    return ((name, "torch.rand([1, 32])", f"{_TODO}: what the model takes"),)


def _signature(folder: Path, reference: str) -> list[tuple[str, str, str]]:
    """Return the sample's entries for the forward pass of a repository's class, read from its file and not run.

    They are empty when the file, the class or its `forward` is not found.
    """
    module, _, name = reference.rpartition("--")[2].rpartition(".")
    path = folder / f"{module.replace('.', '/')}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "forward":
                    return _arguments(item)
    return []


def _arguments(function: ast.FunctionDef) -> list[tuple[str, str, str]]:
    given = function.args.args[1:]
    without = len(given) - len(function.args.defaults)
    source = ast.unparse(function)
    entries = []
    for at, argument in enumerate(given):
        annotation = ast.unparse(argument.annotation) if argument.annotation is not None else ""
        used = re.search(rf"\b{argument.arg}\.(?!shape\b)\w+|\b{argument.arg}\[", source)
        optional = "Optional" in annotation or "None" in annotation
        if at < without or (used and not optional and at < without + 2) or argument.arg.endswith("_flags"):
            entries.append((argument.arg, *_value(argument.arg, annotation)))
    return entries


# ----------------------------------------------------------------------------------------------------------- text


def _text(model: str, parts: Parts) -> str:
    entries = "\n".join(f"        {name!r}: {value},  # {remark}" for name, value, remark in parts.sample)
    load = "\n".join(f"    {line}" for line in parts.load)
    imports = (
        "\n".join(("import torch", *parts.imports))
        if not parts.imports
        else "import torch\n" + "\n".join(parts.imports)
    )
    return f'''"""A target for mpsprobe: {model}. Written by `mpsprobe target new`; every {_TODO} is yours.

    mpsprobe predict ./target.py
    mpsprobe run ./target.py --device emulated --keep-going
"""

{imports}


def load(device, dtype, weights="stored"):
    """Return the model on `device`; `weights` is "stored", "random" or "none" (a prediction: read no files)."""
    torch.manual_seed(0)
{load}
    return model.to(device=device, dtype=dtype).eval() if dtype is not None else model.to(device).eval()


def sample():
    """Return one input, on the CPU."""
    torch.manual_seed(0)
    return {{
{entries}
    }}


def infer(model, batch):
    """Run the model once, as its users do; the same batch must give the same result."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    batch = {{k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}}
    return {parts.call}


def extract(raw):
    """Return named results on the CPU."""
    found = {{}}

    def collect(name, value):
        if torch.is_tensor(value):
            found[name] = value.detach().float().cpu() if value.is_floating_point() else value.detach().cpu()
        elif isinstance(value, dict):
            for key, one in value.items():
                collect(f"{{name}}.{{key}}" if name else str(key), one)
        elif isinstance(value, (list, tuple)):
            for at, one in enumerate(value):
                collect(f"{{name}}{{at}}" if name else f"output{{at}}", one)

    collect("output" if torch.is_tensor(raw) else "", raw)
    return found
'''
