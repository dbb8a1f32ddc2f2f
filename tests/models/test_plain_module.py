"""Classes outside transformers: how they are made from JSON, and how they are fed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.errors import TargetError, UsageError
from mpsprobe.models.adapter import Weights
from mpsprobe.models.targets import resolve
from mpsprobe.models.weightless import config_only, feed, from_config, plain_module
from mpsprobe.options import Settings


@dataclass
class SizesOfNet:
    width: int
    depth: int = 1


class ByAnnotation(nn.Module):
    def __init__(self, sizes: SizesOfNet) -> None:
        super().__init__()
        self.depth = sizes.depth
        self.layer = nn.Linear(sizes.width, sizes.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def twice(self, x: torch.Tensor, *, times: int) -> torch.Tensor:
        return x * times


class ByModule(nn.Module):
    def __init__(self, config) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.config = config


class ByArguments(nn.Module):
    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.width, self.depth = width, depth


@pytest.mark.parametrize("cls", [ByAnnotation, ByModule])
def test_one_object_that_holds_all_values(cls: type[nn.Module]) -> None:
    """As in `GPT(GPTConfig(...))`: the dataclass is found by its annotation, or by its fields."""
    made: Any = plain_module.construct(cls, {"width": 3, "depth": 2})
    assert (made.depth if cls is ByAnnotation else made.config.depth) == 2
    if cls is ByModule:
        assert made.config == SizesOfNet(3, 2)


def test_an_object_of_json_becomes_its_dataclass() -> None:
    """As openai-whisper's `Whisper(dims: ModelDimensions)` with a checkpoint's `{"dims": {...}}`."""
    made: Any = plain_module.construct(ByAnnotation, {"sizes": {"width": 3, "depth": 2}})
    assert made.depth == 2


def build_on_cuda(width: int = 4, pretrained: bool = True, device: str = "cuda") -> nn.Module:
    assert not pretrained, "no network"
    return nn.Linear(width, width).to(device)


def test_factories_are_built_without_cuda_and_weights(tmp_path: Path) -> None:
    """As sam2's `build_sam2(..., device="cuda")`, which raises on a Mac unless it is told otherwise."""
    values, notes = plain_module.at_hand(build_on_cuda, {"width": 3})  # type: ignore[arg-type]
    assert values == {"width": 3, "pretrained": False, "device": "cpu"}
    assert "pretrained=False, device='cpu'" in notes[0]
    assert plain_module.at_hand(build_on_cuda, {"device": "mps", "pretrained": 0})[1] == []  # type: ignore[arg-type]
    blueprint = from_config.of_class(f"{__name__}:build_on_cuda", None)
    assert blueprint.notes == notes
    assert plain_module.construct(blueprint.model_class, blueprint.config)


def test_values_that_no_dataclass_has_become_attributes() -> None:
    made: Any = plain_module.construct(ByModule, {"some_size": 3})
    assert made.config.some_size == 3


def test_values_are_arguments_where_they_are_named() -> None:
    made: Any = plain_module.construct(ByArguments, {"width": 3})
    assert (made.width, made.depth) == (3, 1)
    with pytest.raises(TypeError, match="width"):
        plain_module.construct(ByArguments, {"depth": 3})


def test_a_class_that_does_not_say_what_it_is_fed() -> None:
    with pytest.raises(TargetError, match="does not say what it is fed") as problem:
        plain_module.inputs(ByArguments, {"width": 3}, torch.float32)
    assert '"mpsprobe"' in (problem.value.hint or "")


def test_the_config_file_says_what_a_model_is_fed(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    inputs = {"x": {"shape": [2, 3]}, "times": 4}
    file.write_text(json.dumps({"width": 3, "mpsprobe": {"method": "twice", "inputs": inputs}}))
    ref = resolve(Settings(f"{__name__}:ByAnnotation", config=str(file), random_init=True))
    adapter, _ = config_only.make(ref, config_only.obtain(ref).path, Weights.RANDOM)
    batch = adapter.prepare(adapter.sample())
    model = adapter.load(torch.device("cpu"), "auto")
    output = adapter.infer(model, batch)["output"]
    assert adapter.forward(model, batch)["output"].shape == (2, 3)  # which takes no `times`
    assert torch.equal(output, torch.linspace(-1, 1, 6).reshape(2, 3) * 4)


def test_integers_stay_below_their_limit() -> None:
    taken = feed.take({"mpsprobe": {"inputs": {"i": {"shape": [1, 9], "dtype": "int64", "below": 4}}}}, "")
    assert taken is not None
    ids = taken.make(torch.float16)["i"]
    assert ids.dtype is torch.int64
    assert ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0]]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"inputs": {"x": {"shape": [1], "size": 2}}}, "size"),
        ({"method": "generate"}, "inputs"),
    ],
)
def test_a_feed_of_another_form_is_one_line(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as problem:
        feed.take({"mpsprobe": stated}, "config.json")
    assert problem.value.what.startswith("config.json: mpsprobe: ")


def test_options_of_a_script_are_read_in_every_way() -> None:
    """As RAFT reads its arguments: `'dropout' not in args`, `args.small`, and others by key or `get`."""

    class Scripted(nn.Module):
        def __init__(self, args: Any) -> None:
            super().__init__()
            dropout = args.dropout if "dropout" in args else 0
            self.layer = nn.Linear(args["width"], args.get("out", 3))
            self.dropout = nn.Dropout(dropout)

    made: Any = plain_module.construct(Scripted, {"width": 4, "small": True})
    assert (made.layer.in_features, made.layer.out_features, made.dropout.p) == (4, 3, 0)
