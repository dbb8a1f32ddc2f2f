"""Parity of a target's forward pass, some of it wrong or drawn at random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mpsprobe.device.real import Cpu
from mpsprobe.models import registry
from mpsprobe.models.hub.snapshot import Snapshot
from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings
from mpsprobe.phases import data, parity, transfer
from mpsprobe.phases.check import Result
from mpsprobe.run import Status

_TARGET = """
import torch

def load(device, dtype):
    return torch.nn.Identity().to(device)
def sample():
    return {"x": torch.linspace(-1, 1, 8)}
def infer(model, batch):
    noise = torch.rand(8) if DRAWS else torch.zeros(8)
    return {"sine": model(batch["x"]).sin(), "noisy": batch["x"] + noise}
def extract(raw):
    return {name: raw[name] for name in NAMES}
"""


def _judged(folder: Path, *, draws: bool, names: list[str], wrong: float = 0.0) -> Result:
    (folder / "target.py").write_text(_TARGET.replace("DRAWS", str(draws)).replace("NAMES", repr(names)))
    profile = resolve(Settings(str(folder / "target.py"))).profile
    adapter = registry.make_adapter(profile, folder)
    loaded = transfer.load(adapter, profile, Snapshot(folder, {}, (), 0, 0, {}, None), Cpu())
    prepared = data.prepare(loaded)
    outputs = adapter.forward(loaded.model, prepared.device_batch)
    return parity.judged(prepared, {name: value + wrong for name, value in outputs.items()})


@pytest.mark.parametrize("draws", [True, False])
def test_what_is_drawn_at_random_is_not_compared(tmp_path: Path, draws: bool) -> None:
    result = _judged(tmp_path, draws=draws, names=["sine", "noisy"])
    assert result.status is Status.PASS
    assert result.table is not None
    assert [row[0] for row in result.table.rows] == (["sine"] if draws else ["sine", "noisy"])
    assert ("Drawn at random, so not compared: noisy." in result.message) == draws


def test_the_rest_is_still_compared(tmp_path: Path) -> None:
    result = _judged(tmp_path, draws=True, names=["sine", "noisy"], wrong=0.1)
    assert result.status is Status.FAIL
    assert "sine is off by 0.12 of its scale" in result.message  # 0.1 of sin(1)


def test_nothing_but_noise_is_unknown(tmp_path: Path) -> None:
    result = _judged(tmp_path, draws=True, names=["noisy"])
    assert result.status is Status.UNKNOWN
    assert result.table is None


def test_the_state_of_the_generator_stays(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(9)[8]
    torch.manual_seed(3)
    _judged(tmp_path, draws=True, names=["noisy"])  # whose own pass draws eight
    assert torch.rand(()) == expected
