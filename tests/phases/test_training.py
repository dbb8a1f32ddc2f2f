"""The training stage on the virtual device: faults planted in a backward, an optimiser's step, a parameter, a loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.profile import Profile
from mpsprobe.models.target_file import TargetFileAdapter
from mpsprobe.models.training import TrainingAdapter, TrainingPlan
from mpsprobe.phases import data, training_checks, training_steps, transfer
from mpsprobe.phases.check import Result
from mpsprobe.run import Mac, Status

pytestmark = pytest.mark.own_process

#: A small classifier whose parts a fault can be planted in. Faults strike on MPS only, as a Mac's do.
TARGET = '''
import torch
from torch import nn

class Doubled(torch.autograd.Function):
    """x, whose gradient is {factor} times too large on MPS."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * {factor} if g.device.type == "mps" else g

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.frozen = nn.Parameter(torch.ones(8))
        self.kept = []

    def forward(self, x):
        h = self.first(x).tanh()
        h = Doubled.apply(h) if {planted!r} == "backward" else h
        h = self.second(h).tanh() * self.frozen
        if {planted!r} == "frozen" and x.device.type == "mps":
            self.frozen.data.add_(0.01)
        if {planted!r} == "leak":
            self.kept.append(torch.zeros(1 << 18, device=x.device))
        return self.last(h)

def load(device, dtype, weights="random"):
    model = Net().to(device)
    model.frozen.requires_grad_(False)
    return model

def sample():
    return {{"x": torch.randn(4, 6, generator=torch.Generator().manual_seed(0))}}

def infer(model, batch):
    return model(**batch)

def extract(raw):
    return {{"out": raw.float().cpu()}}

def train_step(model, batch, optimizer):
    loss = model(**batch).square().mean()
    loss.backward()
    if {planted!r} == "stuck" and batch["x"].device.type == "mps":
        model.second.weight.grad.zero_()
    optimizer.step()
    optimizer.zero_grad()
    return loss
'''


@pytest.fixture(scope="module", autouse=True)
def emulated() -> Iterator[Emulated]:
    device = Emulated(Mac(torch="2.8"))
    with device.opened():
        yield device


def results(
    folder: Path, device: Emulated, planted: str = "", factor: str = "2", optimizer: str = "adamw"
) -> dict[str, Result]:
    file = folder / "target.py"
    file.write_text(TARGET.format(planted=planted, factor=factor))
    profile = Profile(name="target", title="target", adapter=str(file), dtype="float32")
    adapter = TrainingAdapter(TargetFileAdapter(folder, profile), TrainingPlan("full", optimizer))
    return checked(adapter, profile, device)


def checked(adapter: TrainingAdapter, profile: Profile, device: Emulated) -> dict[str, Result]:
    """Return what every check says but that of worker processes."""
    loaded = transfer.load(adapter, profile, Snapshot(adapter.snapshot, {}, (), 0, 0, {}, None), device)
    made = training_steps.train(data.prepare(loaded))
    with torch.enable_grad():
        return {check.name: check(made) for check in training_checks.CHECKS if check.name != "workers"}


def test_a_sound_model_passes_every_check(tmp_path: Path, emulated: Emulated) -> None:
    for optimizer in ("adamw", "sgd", "adafactor", "lion"):
        found = results(tmp_path, emulated, optimizer=optimizer)
        status = {name: result.status for name, result in found.items()}
        assert status.pop("scaler") is Status.SKIPPED  # the target takes its own steps
        assert set(status.values()) == {Status.PASS}, {name: one.message for name, one in found.items()}


def test_a_wrong_backward_is_found_where_it_begins(tmp_path: Path, emulated: Emulated) -> None:
    found = results(tmp_path, emulated, "backward")["gradients"]
    assert found.status is Status.FAIL
    assert "The gradient of first." in found.message  # the layers after it have right gradients
    assert "second." not in found.message


def test_a_gradient_that_is_not_finite_is_named(tmp_path: Path, emulated: Emulated) -> None:
    found = results(tmp_path, emulated, "backward", factor="float('nan')")
    assert found["gradients"].status is Status.FAIL
    assert "Not finite: the gradient of first." in found["gradients"].message
    assert found["loss"].status is Status.FAIL


def test_a_frozen_parameter_that_moves_is_named(tmp_path: Path, emulated: Emulated) -> None:
    found = results(tmp_path, emulated, "frozen")["update"]
    assert found.status is Status.FAIL
    assert "Frozen, but changed by a step: frozen" in found.message


def test_a_leak_is_stated_in_bytes_a_step(tmp_path: Path, emulated: Emulated) -> None:
    found = results(tmp_path, emulated, "leak")["memory"]
    assert found.status is Status.FAIL
    assert "1.05 MB more" in found.message  # 2 ** 18 floats


def test_a_parameter_that_the_device_leaves_behind_is_named(tmp_path: Path, emulated: Emulated) -> None:
    found = results(tmp_path, emulated, "stuck", optimizer="sgd")["gradients"]
    assert found.status is Status.FAIL
    assert "second.weight" in found.message


@pytest.mark.parametrize("fault", ["still", "half"])
def test_a_wrong_step_of_the_optimiser_is_found(
    tmp_path: Path, emulated: Emulated, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An `addcdiv_` that does nothing on tensors that are not contiguous was MPS's fault up to torch 2.4."""
    step = torch.optim.SGD.step

    def wrong(self: Any, closure: Any = None) -> Any:
        weights = [p for group in self.param_groups for p in group["params"] if p.device.type == "mps"]
        before = [one.detach().clone() for one in weights]
        result = step(self, closure)
        with torch.no_grad():
            for one, old in zip(weights[:1], before, strict=False):
                one.copy_(old if fault == "still" else (one + old) / 2)
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", wrong)
    found = results(tmp_path, emulated, optimizer="sgd")["update"]
    assert found.status is Status.FAIL
    assert "first.weight" in found.message


EXAMPLES = Path(__file__).parents[2] / "examples" / "training"


@pytest.mark.parametrize("name", ["policy", "whisper", "unet"])
def test_the_examples_pass_every_check(name: str, emulated: Emulated) -> None:
    file = EXAMPLES / f"{name}.py"
    profile = Profile(name="target", title="target", adapter=str(file), dtype="float32")
    adapter = TrainingAdapter(TargetFileAdapter(EXAMPLES, profile), TrainingPlan("full", "adamw"))
    found = checked(adapter, profile, emulated)
    bad = {key: one.message for key, one in found.items() if one.status is not Status.PASS}
    assert list(bad) == ["scaler"], bad  # they take their own steps


UNUSUAL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.make, self.drop, self.judge = nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 1)

    def forward(self, x):
        return self.judge(self.drop(self.make(x)))

def load(device, dtype):
    return Net().to(device=device, dtype=dtype)

def sample():
    return {{"x": torch.randn(4, 6, generator=torch.Generator().manual_seed(0))}}

def infer(model, batch):
    return model(batch["x"].to(model.make.weight.dtype))

def extract(raw):
    return {{"out": raw.float().cpu()}}

made = {{}}

def train_step(model, batch, optimizer):
    model.train()
    {step}
"""
STEPS = {
    "dropout": """
    loss = infer(model, batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss""",
    "losses": """
    out = infer(model, batch)
    far, near = out.square().mean(), out.abs().mean()
    (far + near).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"far": far, "near": near}""",
    "two optimisers": """
    maker, judge = made.setdefault(id(model), (
        torch.optim.Adam(model.make.parameters()), torch.optim.SGD(model.judge.parameters(), lr=0.01)))
    fake = model.make(batch["x"])
    (model.judge(fake.detach()) - model.judge(batch["x"])).mean().backward()
    judge.step()
    judge.zero_grad()
    loss = -model.judge(fake).mean()
    loss.backward()
    maker.step()
    maker.zero_grad()
    judge.zero_grad()
    return loss""",
}


def unusual(folder: Path, device: Emulated, step: str) -> dict[str, Result]:
    file = folder / "target.py"
    file.write_text(UNUSUAL.format(step=STEPS[step].strip()))
    profile = Profile(name="target", title="target", adapter=str(file), dtype="float32")
    adapter = TrainingAdapter(TargetFileAdapter(folder, profile), TrainingPlan("full", "adamw"))
    return checked(adapter, profile, device)


@pytest.mark.parametrize("step", ["dropout", "losses", "two optimisers"])
def test_unusual_loops_raise_no_false_alarm(tmp_path: Path, emulated: Emulated, step: str) -> None:
    found = unusual(tmp_path, emulated, step)
    status = {name: one.status for name, one in found.items()}
    assert status.pop("scaler") is Status.SKIPPED
    # the state of an optimiser that the target made is out of reach
    assert status.pop("resume") is (Status.UNKNOWN if step == "two optimisers" else Status.PASS)
    # losses that oppose each other need not fall
    assert status.pop("loss") in ((Status.PASS, Status.WARN) if step == "two optimisers" else (Status.PASS,))
    assert set(status.values()) == {Status.PASS}, {name: one.message for name, one in found.items()}
