"""A training step without memory: what it holds, and what of its backward a Mac refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mpsprobe.forecast.trace import OPTIMIZER
from mpsprobe.options import Settings
from mpsprobe.prediction import command, macs
from mpsprobe.prediction.observed import observe, resolve
from mpsprobe.report import terminal
from mpsprobe.report.answer import answer
from mpsprobe.run import Mac
from tests.models.test_training import LLAMA, SPEECH

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
    begin, end = (at for at, one in enumerate(found.trace.order) if one == OPTIMIZER)
    stepped = {found.trace.uses[one].op for one in found.trace.order[begin:end] if one >= 0}
    assert {"aten::lerp_.Scalar", "aten::addcdiv_"} <= stepped


def test_an_epoch_has_the_steps_of_a_dataloader(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    settings = Settings(
        model=str(tmp_path), train="lora", batch=3, accumulate=2, samples=100, prompt_tokens=16, mac="m2-24"
    )
    run = command.predict(settings)
    assert run.outlook is not None
    assert run.outlook.forecast is not None
    time, epoch = run.outlook.forecast.time, run.outlook.forecast.epoch
    assert time is not None
    assert answer(run).title.endswith(" is predicted to train (LoRA) on the GPU of an Apple M2")
    assert epoch is not None
    steps = len(DataLoader(range(100), batch_size=3 * 2))  # type: ignore[arg-type]
    assert epoch.steps == steps
    assert time.per_sample is not None
    assert time.per_sample.expected is not None
    assert epoch.seconds.expected == pytest.approx(steps * time.per_sample.expected)
    shown = " ".join(terminal.text(run).split())
    assert f"An epoch of 100 samples: {steps} steps" in shown
    assert f"for {steps} steps" in shown  # a rented GPU takes the same
    assert "mlx_lm.lora --model MODEL --train --data FOLDER --fine-tune-type lora" in shown


def test_a_step_is_not_called_a_forward_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    run = command.predict(Settings(model=str(tmp_path), train="full", prompt_tokens=16, mac="m2-24"))
    assert run.outlook is not None
    assert run.outlook.forecast is not None
    assert run.outlook.forecast.time is not None
    assert [part.name for part in run.outlook.forecast.time.parts] == ["download", "load", "step"]
    assert "a step takes about" in " ".join(run.outlook.routes[0].reasons)


def test_what_would_make_training_fit_is_of_training(tmp_path: Path) -> None:
    large = LLAMA | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 12}
    (tmp_path / "config.json").write_text(json.dumps(large))
    run = command.predict(Settings(model=str(tmp_path), train="full", mac="m2-8"), routes=False)
    assert run.outlook is not None
    assert run.outlook.forecast is not None
    memory = run.outlook.forecast.memory
    assert memory is not None
    assert [one.sentence.split()[0] for one in memory.remedies] == [
        "--train",
        "--optimizer",
        "--gradient-checkpointing,",
        "A",
    ]


def test_macs_are_held_against_an_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    settings = Settings(model=str(tmp_path), random_init=True, train="full", batch=4, samples=40)
    found = macs.catalogue(settings, "2.13", lambda _: None)
    assert {row.epoch.steps for row in found.rows if row.epoch} == {10}
    assert not any(row.quantised for row in found.rows)  # what is trained is not quantised
    assert "an epoch of 10 steps" in macs.text(found)


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


def test_ctc_loss_is_missing_on_mps_before_its_release(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SPEECH))
    settings = Settings(model=str(tmp_path), train="full", audio_seconds=1)
    found = recorded(settings, "2.13")
    assert not found.stopped  # what it would do after the missing op is seen too
    assert any("aten::_ctc_loss" in str(one) for one in found.findings)
    assert not recorded(settings, "2.15").findings
