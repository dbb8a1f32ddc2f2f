"""Shapes of arguments as docstrings state them: transformers' own describe each argument of a forward pass."""

from __future__ import annotations

import inspect
import re

#: `input_values (`torch.FloatTensor` of shape `(batch_size, 1, time_steps)`)`, in any order of backticks.
_SHAPE = r"{name}`?\s*\(\s*`?(?:torch\.)?(?P<dtype>\w+)?`?[^()]*?of shape\s*`{{1,2}}\((?P<axes>[^)`]*)\)`"


def argument(cls: type, name: str) -> tuple[tuple[str, ...], str]:
    """Return the names of an argument's axes and its dtype as the docstring of `forward` states them.

    Args:
        cls: a model class.
        name: of an argument of its forward pass.

    Returns:
        For example `(("batch_size", "1", "time_steps"), "FloatTensor")`; empty ones where nothing is stated.
    """
    text = inspect.getdoc(getattr(cls, "forward", None)) or ""
    found = re.search(_SHAPE.format(name=rf"(?<!\w){re.escape(name)}"), text)
    if found is None:
        return (), ""
    axes = (one.strip() for one in found["axes"].split(","))
    return tuple(axis for axis in axes if axis), found["dtype"] or ""
