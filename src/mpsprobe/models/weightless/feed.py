"""The input of a model as its config file states it, under the key `mpsprobe`."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from mpsprobe.errors import UsageError

KEY = "mpsprobe"


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape and values of one tensor of the input, as a config states them.

    Attributes:
        shape: The shape.
        dtype: `"float"` for the weights' dtype, or a dtype of torch such as `"int64"`.
        below: The exclusive upper bound of integers, which count up from 0 and start again.
    """

    shape: list[int]
    dtype: str = "float"
    below: int = 2

    def make(self, weights: torch.dtype) -> Tensor:
        """Make the tensor: floats rise from -1 to 1, integers count from 0 below `below`, and start again.

        Args:
            weights: The dtype of the weights.

        Raises:
            UsageError: There is no such dtype in torch.
        """
        dtype = weights if self.dtype == "float" else getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(f"dtype {self.dtype!r}: torch has none of that name.", 'For example "int64".')
        count = math.prod(self.shape)
        if dtype.is_floating_point:
            return torch.linspace(-1, 1, count).reshape(self.shape).to(dtype)
        return (torch.arange(count) % self.below).reshape(self.shape).to(dtype)


class StatedInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input that a config states, and the method that takes it.

    Attributes:
        inputs: The arguments by name: the description of a tensor, or a plain value.
        method: The method of the model; by default the forward pass.
    """

    inputs: dict[str, TensorSpec | bool | int | float | str | None]
    method: str = "forward"

    def make(self, weights: torch.dtype) -> dict[str, Any]:
        """Make the arguments on the CPU; tensors of dtype `"float"` get the dtype of the weights.

        Raises:
            UsageError: There is no dtype of a stated name in torch.
        """
        return {
            name: value.make(weights) if isinstance(value, TensorSpec) else value
            for name, value in self.inputs.items()
        }


def take(values: dict[str, Any], where: str) -> StatedInput | None:
    """Remove the key `mpsprobe` from a config and return its value; None where there is none.

    Args:
        values: The content of the config, which is changed.
        where: The name of the file, for errors.

    Raises:
        UsageError: The value does not fit the schema of `StatedInput`.
    """
    stated = values.pop(KEY, None)
    if stated is None:
        return None
    try:
        return msgspec.convert(stated, StatedInput)
    except msgspec.ValidationError as problem:
        raise UsageError(
            f"{where}: {KEY}: {problem}.",
            'For example {"inputs": {"idx": {"shape": [1, 32], "dtype": "int64", "below": 50257}}}.',
        ) from problem
