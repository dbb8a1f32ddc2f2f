"""Steps of an inference, against calls that are counted by hand."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from mpsprobe.phases.benchmark import outermost_calls


class Slow(nn.Module):
    """Waits as long as its input says."""

    def forward(self, seconds: float) -> float:
        """Wait."""
        time.sleep(seconds)
        return seconds


class Pair(nn.Module):
    """Two parts that its user calls by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Sequential(Slow())
        self.step = Slow()


def test_outermost_calls_are_told_by_module_in_order() -> None:
    model = Pair()
    waits = []
    with outermost_calls(model, lambda: waits.append(1)) as steps:
        model.prompt(0.02)
        for _ in range(3):
            model.step(0.0)
    assert list(steps.seconds) == ["prompt", "step"], "a part of prompt is no step of its own"
    assert [len(seconds) for seconds in steps.seconds.values()] == [1, 3]
    assert steps.seconds["prompt"][0] >= 0.02
    assert len(waits) == 2 * 4, "before and after each"


def test_a_call_that_raises_does_not_hide_the_next() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with outermost_calls(model, lambda: None) as steps:
        with pytest.raises(RuntimeError):
            model(torch.ones(3))
        model(torch.ones(2))
    assert len(steps.seconds[""]) == 2


def test_nothing_stays_on_the_model() -> None:
    model = nn.Linear(2, 2)
    with outermost_calls(model, lambda: None):
        pass
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
