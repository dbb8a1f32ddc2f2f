"""Classes outside transformers: how they are constructed from a JSON object, and what they are fed."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from typing import Any

import torch
from torch import nn

from mpsprobe.errors import TargetError
from mpsprobe.models.diffusers import inputs as diffusers_inputs


def construct(cls: type[nn.Module], values: dict[str, Any]) -> nn.Module:
    """An object of a class, from a JSON object.

    The values are the constructor's arguments. Where it takes one object that holds them all (`GPT(config)`),
    they become that: the dataclass of its annotation, or the one dataclass of its module that has these fields,
    or a plain namespace.
    """
    if diffusers_inputs.knows(cls):
        return diffusers_inputs.construct(cls, values)
    holder = _holder(cls, values)
    return cls(**values) if holder is None else cls(holder(**values))


def inputs(cls: type[nn.Module], values: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The arguments of `forward` that a class states itself, in the property `dummy_inputs`, or that are known.

    Raises:
        TargetError: nothing says what it is fed.
    """
    if diffusers_inputs.knows(cls):
        return diffusers_inputs.make(cls, values, dtype)
    stated = getattr(cls, "dummy_inputs", None)
    if isinstance(stated, property) and stated.fget is not None:
        with torch.device("meta"):
            shape_only = construct(cls, values)
        stated = stated.fget(shape_only)
    if not isinstance(stated, dict):
        raise TargetError(
            f"{cls.__name__} does not say what it is fed.",
            'Say so in the file of --config: "mpsprobe": {"inputs": {"x": {"shape": [1, 3, 224, 224]}}}; or '
            "give the class a property dummy_inputs: a dict of the arguments of forward.",
        )
    return dict(stated)


def _holder(cls: type[nn.Module], values: dict[str, Any]) -> Any:
    """What makes the one object that a constructor takes; None where it takes the values themselves."""
    parameters = list(inspect.signature(cls).parameters.values())
    first = parameters[0] if parameters else None
    needed = [one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if first is None or needed != [first] or first.name in values:
        return None
    accepted = {one.name for one in parameters}
    if (
        accepted >= values.keys() and values
    ):  # optional arguments beside a missing one: let the class complain
        return None
    scope = vars(sys.modules[cls.__module__])
    annotation: Any = first.annotation
    if isinstance(annotation, str):
        annotation = scope.get(annotation)
    if dataclasses.is_dataclass(annotation):
        return annotation
    fitting = [one for one in scope.values() if isinstance(one, type) and _fits(one, values)]
    return fitting[0] if len(fitting) == 1 else types.SimpleNamespace


def _fits(cls: type, values: dict[str, Any]) -> bool:
    """Whether a dataclass takes all these values."""
    return (
        dataclasses.is_dataclass(cls) and {field.name for field in dataclasses.fields(cls)} >= values.keys()
    )
