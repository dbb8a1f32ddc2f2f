"""Parity of a target's forward pass, some of it wrong or drawn at random."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mpsprobe.device.real import Cpu
from mpsprobe.models import choose
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
    adapter = choose.make_adapter(profile, folder)
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


#: Random weights that let rounding grow: 24 layers, each of which doubles what enters it.
_DEEP = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(32, 32)
        nn.init.normal_(self.inner.weight, std=0.6)
    def forward(self, x):
        return x + torch.sin(3 * self.inner(x))

def load(device, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(*[Layer() for _ in range(24)])
    return model.to(device, dtype)
def sample():
    return {"x": torch.linspace(-1, 1, 64).reshape(2, 32)}
def infer(model, batch):
    return model(batch["x"].to(model[0].inner.weight.dtype))
def extract(raw):
    return {"y": raw.float()}
"""


class _OtherOrder(torch.nn.Module):
    """A linear layer that sums in another order than the CPU's kernel: a device that rounds by itself."""

    def __init__(self, inner: torch.nn.Linear, factor: float = 1.0) -> None:
        super().__init__()
        self.weight, self.bias, self.factor = inner.weight, inner.bias, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        parts = x[..., :half] @ self.weight[:, :half].t() + x[..., half:] @ self.weight[:, half:].t()
        return (parts + self.bias) * self.factor


def _deep(folder: Path, dtype: str, wrong_layer: int | None = None) -> Result:
    (folder / "deep.py").write_text(_DEEP)
    profile = resolve(Settings(str(folder / "deep.py"), dtype=dtype)).profile
    adapter = choose.make_adapter(profile, folder)
    loaded = transfer.load(adapter, profile, Snapshot(folder, {}, (), 0, 0, {}, None), Cpu())
    for number, layer in enumerate(loaded.model.children()):
        layer.inner = _OtherOrder(layer.inner, 1.1 if number == wrong_layer else 1.0)  # type: ignore[arg-type]
    prepared = data.prepare(loaded)
    with torch.inference_mode():
        outputs = adapter.forward(loaded.model, prepared.device_batch)
    return parity.judged(prepared, outputs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_that_the_model_itself_lets_grow_passes(tmp_path: Path, dtype: str) -> None:
    result = _deep(tmp_path, dtype)
    assert result.status is Status.PASS, result.message
    assert result.table is not None
    (row,) = result.table.rows
    assert row[1] > row[2]  # type: ignore[operator]  # over the dtype's threshold
    assert "rounding" in result.message
    assert "modules compared by themselves" in result.message


@pytest.mark.parametrize("layer", [0, 11, 23])
def test_an_error_of_one_layer_is_seen_through_the_noise(tmp_path: Path, layer: int) -> None:
    result = _deep(tmp_path, "bfloat16", layer)
    assert result.status is Status.FAIL
    assert f"The module {layer}" in result.message
