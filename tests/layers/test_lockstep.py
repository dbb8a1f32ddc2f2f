"""Two runs side by side: whatever one of them does, the other ends and no thread is left."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.layers.compared import Forcing, Lockstep, follow
from mpsprobe.layers.module_calls import Extent, Subject
from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile

PROFILE = Profile("p", "P", "x:y")


class Chain(Adapter):
    """Feeds `x` through the model."""

    def load(self, device: torch.device, dtype: str) -> nn.Module:
        raise NotImplementedError

    def sample(self) -> dict[str, Any]:
        return {}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        return {}

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        return {"y": model(batch["x"])}

    def infer(self, model: nn.Module, batch: Batch) -> Any:
        raise NotImplementedError

    def extract(self, raw: Any) -> Outputs:
        raise NotImplementedError


def subject(model: nn.Module) -> Subject:
    adapter = Chain(None, PROFILE)  # type: ignore[arg-type]
    x = torch.linspace(-1, 1, 8).reshape(1, 8)
    return Subject("s", model, adapter, PROFILE, torch.device("cpu"), lambda: {"x": x}, lambda: None)


def chain(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("planted")


class InPlace(nn.Module):
    """Changes its input, which is another module's output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_each_call_is_given_the_references_inputs() -> None:
    torch.manual_seed(0)
    good = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    bad = nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)])
    bad.load_state_dict(good.state_dict())
    with torch.no_grad():
        next(bad[0].parameters()).mul_(3)
    with Lockstep(subject(good), Extent.FORWARD) as reference_pass:
        result = follow(subject(bad), Extent.FORWARD, reference_pass, Forcing.LAYERS)
    errors = {(c.call.path, c.call.entering): c.distance.error for c in result.compared}
    assert errors.pop(("0", False)) > 0.1
    assert set(errors.values()) == {0.0}, "what follows a wrong layer is not blamed for it"


def test_tensors_changed_in_place_are_compared_as_they_were() -> None:
    compared, reference = (chain(nn.Linear(8, 8), InPlace(), nn.Linear(8, 8), InPlace()) for _ in "ab")
    with Lockstep(subject(reference), Extent.FORWARD) as reference_pass:
        result = follow(subject(compared), Extent.FORWARD, reference_pass, Forcing.LAYERS)
    assert result.calls == 5
    assert {c.distance.error for c in result.compared} == {0.0}


def test_calls_that_one_side_lacks_do_not_stop_the_rest() -> None:
    short = chain(nn.Linear(8, 8), nn.Identity())
    long = chain(nn.Linear(8, 8), nn.Identity(), nn.Identity(), nn.Identity())
    for compared, reference in ((long, short), (short, long)):
        with Lockstep(subject(reference), Extent.FORWARD) as reference_pass:
            result = follow(subject(compared), Extent.FORWARD, reference_pass, Forcing.LAYERS)
        assert result.unmatched == (2 if compared is long else 0)
        assert result.calls - result.unmatched == 3


@pytest.mark.parametrize("where", ["compared", "reference"])
def test_an_error_of_either_side_ends_both(where: str) -> None:
    sound = chain(nn.Linear(8, 8), nn.Identity())
    broken = chain(nn.Linear(8, 8), Raises())
    compared, reference = (broken, sound) if where == "compared" else (sound, broken)
    with (
        pytest.raises(ValueError, match="planted"),
        Lockstep(subject(reference), Extent.FORWARD) as reference_pass,
    ):
        follow(subject(compared), Extent.FORWARD, reference_pass, Forcing.LAYERS)


def test_the_lowest_value_of_float32_does_not_become_infinite() -> None:
    class Mask(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full_like(x, torch.finfo(x.dtype).min)

    with Lockstep(subject(chain(Mask(), nn.Identity())), Extent.FORWARD) as reference_pass:
        half = subject(chain(Mask(), nn.Identity()).half())
        object.__setattr__(half, "batch", lambda: {"x": torch.zeros(1, 8, dtype=torch.float16)})
        result = follow(half, Extent.FORWARD, reference_pass, Forcing.LAYERS)
    assert torch.isfinite(result.outputs["y"]).all()
