from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from mpsprobe.layers.module_calls import leaves, replaced


@dataclass(frozen=True)
class Frozen:
    logits: torch.Tensor
    cache: object


class Pair(NamedTuple):
    one: torch.Tensor
    two: int


def test_every_tensor_has_its_place_and_can_be_replaced() -> None:
    a, b, c, d = (torch.full((2,), float(i)) for i in range(4))
    value = (a, {"x": [b, None]}, Frozen(c, cache=object()), Pair(d, 3))
    places = dict(leaves(value))
    assert list(places) == ["[0]", "[1].x[0]", "[2].logits", "[3][0]"]
    new = torch.full((2,), 9.0)
    after = replaced(value, {"[1].x[0]": new, "[2].logits": new, "[3][0]": new})
    assert after[0] is a
    assert after[1]["x"][0] is new
    assert after[2].logits is new
    assert after[2].cache is value[2].cache
    assert after[3] == Pair(new, 3)
    assert value[1]["x"][0] is b, "what was given stays as it is"
    assert value[2].logits is c


def test_a_tensor_itself_and_nothing() -> None:
    tensor = torch.ones(1)
    assert list(leaves(tensor)) == [("", tensor)]
    assert replaced(tensor, {"": tensor * 2}).item() == 2
    assert list(leaves(None)) == []
    value = [tensor]
    assert replaced(value, {}) is value


def test_an_output_of_transformers_keeps_its_attributes_in_step() -> None:
    output: Any = BaseModelOutputWithPast(last_hidden_state=torch.zeros(2))  # type: ignore[arg-type]
    after = replaced(output, {".last_hidden_state": torch.ones(2)})
    assert after.last_hidden_state.tolist() == [1, 1]
    assert after["last_hidden_state"] is after.last_hidden_state
    assert after[0] is after.last_hidden_state
    assert output.last_hidden_state.tolist() == [0, 0]
