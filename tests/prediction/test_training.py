"""A training step without memory: what it holds, and what of its backward a Mac refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.options import Settings
from mpsprobe.prediction.observed import observe, resolve
from mpsprobe.run import Mac
from tests.models.test_training import LLAMA

pytestmark = pytest.mark.own_process


class Sampler(nn.Module):
    """Samples a learnt picture at given places: MPS had no backward of that before torch 2.9."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.ones(1, 1, size, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = x.reshape(1, 1, -1, 2).tanh()
        return nn.functional.grid_sample(self.picture, places, align_corners=False)


def recorded(settings: Settings, release: str) -> Any:
    return observe(resolve(settings), Mac(torch=release))


def test_memory_of_adamw_is_four_times_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = recorded(Settings(model=str(tmp_path), train="full"), "2.8")
    weights = 4 * found.parameters
    assert not found.stopped
    assert found.trace.gradients == weights
    assert found.trace.states == 2 * weights
    assert found.trace.peak >= 4 * weights
    assert any("_backward" in use.op for use, _ in found.uses)


@pytest.mark.parametrize(("release", "verdict"), [("2.8", True), ("2.15", False)])
def test_a_missing_backward_names_the_line_of_its_forward(
    tmp_path: Path, release: str, verdict: bool
) -> None:
    config = tmp_path / "sampler.json"
    config.write_text(json.dumps({"size": 8, "mpsprobe": {"inputs": {"x": {"shape": [1, 6]}}}}))
    found = recorded(
        Settings(model=f"{__name__}:Sampler", config=str(config), random_init=True, train="full"), release
    )
    refused = [one for one in found.findings if "grid_sampler_2d_backward" in str(one)]
    assert bool(refused) is verdict
    assert all("test_training.py" in str(one) for one in refused)
