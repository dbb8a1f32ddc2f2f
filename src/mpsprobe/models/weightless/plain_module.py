"""Classes outside transformers: construct them from a JSON object, and make their inputs."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from mpsprobe.errors import OutOfReachError, TargetError
from mpsprobe.models.diffusers import inputs as diffusers_inputs
from mpsprobe.models.weightless import guessed


class ScriptOptions(argparse.Namespace):
    """Options as scripts pass them to their models, which are read as attributes, by `in`, by key or by `get`."""

    def __getitem__(self, name: str) -> Any:
        """Return a value by key, as a dict or an EasyDict does."""
        return vars(self)[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value, or the default where there is none, as a dict does."""
        return vars(self).get(name, default)


#: The attribute of a module with the names of its buffers that were sparse.
_DENSE = "_mpsprobe_made_dense"
#: Arguments that make a constructor fetch weights, with the value that leaves them out.
_FETCHES: dict[str, Any] = {
    "pretrained": False,
    "pretrained_backbone": False,
    "weights": None,
    "weights_backbone": None,
}


def at_hand(cls: type[nn.Module], values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Add arguments with which a constructor needs neither CUDA nor a download, where its defaults would.

    Args:
        cls: A class, or a factory.
        values: Its arguments, which take precedence and stay as they are.

    Returns:
        All arguments, and a sentence in a list if any were added.
    """
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # written in C, or hides its signature
        return values, []
    added: dict[str, Any] = {}
    for name, parameter in parameters.items():
        default = parameter.default
        if name in values or default is parameter.empty or not default:
            continue
        if name == "device" and str(default).startswith("cuda"):
            added[name] = "cpu"
        elif name in _FETCHES:
            added[name] = _FETCHES[name]
    shown = ", ".join(f"{name}={value!r}" for name, value in added.items())
    why = f"{cls.__name__} would ask for CUDA or fetch weights otherwise: it is built with {shown}."
    return {**values, **added}, [why] if added else []


def construct(cls: type[nn.Module], values: dict[str, Any]) -> nn.Module:
    """Make a model from a class or a factory and the values of a JSON object.

    The values are the constructor's arguments. Where it takes one object that holds them all (`GPT(config)`), they
    become that object: the dataclass of its annotation, the only dataclass of its module with these fields, or a
    script's options.

    Raises:
        TypeError: A factory made something other than a module.
        Exception: What the constructor raises.
    """
    if diffusers_inputs.knows(cls):
        return diffusers_inputs.construct(cls, values)
    factory: Any = cls
    values = _in_dataclasses(cls, values)
    if not isinstance(factory, type):
        made = factory(**values)
        if not isinstance(made, nn.Module):
            raise TypeError(f"{cls.__name__} made a {type(made).__name__}, not a torch.nn.Module")
        return made
    holder = _holder(cls, values)
    return cls(**values) if holder is None else cls(holder(**values))


def inputs(
    cls: type[nn.Module], values: dict[str, Any], dtype: torch.dtype, notes: list[str] | None = None
) -> dict[str, Any]:
    """Return the arguments of `forward`: those that a class states itself (`dummy_inputs`), else guessed ones.

    Args:
        cls: A class, or a factory.
        values: Its arguments.
        dtype: The dtype of floating-point inputs.
        notes: A list to which a sentence about guessed inputs is appended.

    Raises:
        TargetError: The model cannot be built, or no input is stated and no guess fits.
    """
    if diffusers_inputs.knows(cls):
        return diffusers_inputs.make(cls, values, dtype)
    stated = getattr(cls, "dummy_inputs", None)
    if isinstance(stated, dict):
        return dict(stated)
    model = _somehow(cls, values)
    stated = getattr(model, "dummy_inputs", None)
    if not isinstance(stated, dict) and isinstance(getattr(model, "example_input_array", None), Tensor):
        first = next(iter(inspect.signature(model.forward).parameters))
        stated = {first: model.example_input_array}
    if isinstance(stated, dict):
        return dict(stated)
    found = guessed.guess(model.eval(), values, dtype)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    if found is None and on_meta and guessed.may_run(model):
        found = guessed.guess(_on_cpu(cls, values).eval(), values, dtype)
    if found is None:
        names = [one.name for one in guessed.required(model.forward)]
        needs = ", ".join(f"`{name}`" for name in names) or "inputs"
        raise TargetError(
            f"{cls.__name__} needs {needs}, and does not say what it is fed: no made-up input fits.",
            f"Write a target.py with a real input: mpsprobe target new {_path(cls)} makes it; or say it in the file of "
            f'--config: "mpsprobe": {{"inputs": {{"{names[0] if names else "x"}": {{"shape": [1, 3, 224, 224]}}}}}}.',
        )
    if notes is not None:
        shown = ", ".join(
            f"{name} {str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
            for name, value in found.inputs.items()
        )
        notes.append(
            f"The input is made up from its forward pass and first layer, and its forward pass took it: {shown}."
        )
    return found.inputs


def computes(cls: type[nn.Module], values: dict[str, Any]) -> bool:
    """Return whether a constructor computes with its weights, so that they need values.

    True for one that calls a module (strides, or a size found by a forward pass), even if shapes would be enough, and
    for one that raises on the meta device.
    """
    if diffusers_inputs.knows(cls):
        return False
    called: list[str] = []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(type(module).__name__))
    try:
        with torch.device("meta"):
            construct(cls, copy.deepcopy(values))
    except (Exception, SystemExit):  # it may be a wrong argument, which the real construction will report
        return True
    finally:
        hook.remove()
    return bool(called)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a model on a device, with sparse buffers made dense if the emulated device cannot hold them.

    `made_dense` names those buffers afterwards. On a release without sparse tensors on MPS the move raises, as on a
    Mac.

    Raises:
        OutOfReachError: The move is beyond the emulation, and no sparse buffer is the cause.
    """
    try:
        return model.to(device)
    except OutOfReachError:
        found = made_dense(model, change=True)
        if not found:
            raise
    return model.to(device)


def made_dense(model: nn.Module, *, change: bool = False) -> list[str]:
    """Return the names of buffers that this function has made dense; `change` first makes sparse ones so."""
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if change and buffer is not None and buffer.layout is torch.sparse_coo:
                module._buffers[name] = buffer.to_dense()
                module.__dict__.setdefault(_DENSE, []).append(f"{path}.{name}".lstrip("."))
    return [name for module in model.modules() for name in module.__dict__.get(_DENSE, [])]


def _somehow(cls: type[nn.Module], values: dict[str, Any]) -> nn.Module:
    """Build a model on the meta device, or on the CPU if that raises.

    Raises:
        TargetError: It cannot be built on the CPU either.
    """
    try:
        with torch.device("meta"):
            return construct(cls, copy.deepcopy(values))
    except (Exception, SystemExit):
        return _on_cpu(cls, values)


def _on_cpu(cls: type[nn.Module], values: dict[str, Any]) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return construct(cls, copy.deepcopy(values))
    except (Exception, SystemExit) as problem:
        said = (str(problem).strip().splitlines() or ["no reason given"])[0]
        raise TargetError(
            f"{cls.__name__} cannot be built from its config: {type(problem).__name__}: {said}",
            f"Write a target.py that builds it as its users do: mpsprobe target new {_path(cls)}",
        ) from problem


def _path(cls: Any) -> str:
    return f"{cls.__module__}:{cls.__name__}"


def _holder(cls: type[nn.Module], values: dict[str, Any]) -> Any:
    """Return the class of the one object that a constructor takes; None where it takes the values themselves.

    Where nothing names the class, it is `ScriptOptions`.
    """
    parameters = list(inspect.signature(cls).parameters.values())
    first = parameters[0] if parameters else None
    needed = [one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if first is None or needed != [first] or first.name in values:
        return None
    accepted = {one.name for one in parameters}
    if accepted >= values.keys() and values:  # one is missing, which the class reports
        return None
    scope = vars(sys.modules[cls.__module__])
    annotation: Any = first.annotation
    if isinstance(annotation, str):
        annotation = scope.get(annotation)
    if dataclasses.is_dataclass(annotation):
        return annotation
    fitting = [one for one in scope.values() if isinstance(one, type) and _fits(one, values)]
    return fitting[0] if len(fitting) == 1 else ScriptOptions


def _in_dataclasses(cls: type[nn.Module], values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, with JSON objects turned into the dataclasses that the constructor's annotations name."""
    found = dict(values)
    for name, parameter in inspect.signature(cls).parameters.items():
        value, annotation = values.get(name), parameter.annotation
        if isinstance(annotation, str):
            annotation = vars(sys.modules[cls.__module__]).get(annotation)
        if isinstance(value, dict) and isinstance(annotation, type) and _fits(annotation, value):
            found[name] = annotation(**value)
    return found


def _fits(cls: type, values: dict[str, Any]) -> bool:
    """Return whether a class is a dataclass with a field for every value."""
    return (
        dataclasses.is_dataclass(cls) and {field.name for field in dataclasses.fields(cls)} >= values.keys()
    )
