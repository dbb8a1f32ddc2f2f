"""Find the tensors inside any output of a module, and replace some of them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in an output with its place: `""` for the output itself, `".logits"`, `"[0]"`.

    Mappings (such as transformers' ModelOutput), dataclasses, lists and tuples are traversed. Other objects, such
    as a key-value cache, are not, because their tensors come from modules that are examined themselves.
    """
    if isinstance(value, torch.Tensor):
        yield name, value
    else:
        for place, item in _items(value):
            yield from leaves(item, f"{name}{place}")


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as one value, for `leaves` and `replaced`."""
    return {"args": args, "kwargs": kwargs}


def replaced(value: Any, tensors: Mapping[str, torch.Tensor], name: str = "") -> Any:
    """Return the output with the tensors at the given places replaced; containers that change are copied."""
    if isinstance(value, torch.Tensor):
        return tensors.get(name, value)
    items = [(place, item, replaced(item, tensors, f"{name}{place}")) for place, item in _items(value)]
    if all(before is after for _, before, after in items):
        return value
    if isinstance(value, tuple):
        new = [after for _, _, after in items]
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, list):
        return [after for _, _, after in items]
    result = copy.copy(value)
    for place, before, after in items:
        if before is after:
            continue
        if isinstance(result, Mapping):
            result[place[1:]] = after  # type: ignore[index]
        else:
            object.__setattr__(result, place[1:], after)  # works for frozen dataclasses too
    return result


def _items(value: Any) -> list[tuple[str, Any]]:
    """Return the items of a container with their places; empty for a value that is not a container."""
    if isinstance(value, Mapping):
        return [(f".{key}", item) for key, item in value.items() if isinstance(key, str)]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []
