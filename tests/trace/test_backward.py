"""A backward inside a target: which lines and modules its ops count for, and who finds what in it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import mpsprobe
from mpsprobe.cli import cli
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.device.virtual.session import predict
from mpsprobe.run import OpUse
from mpsprobe.trace.dispatch import RecorderObserver, record
from mpsprobe.trace.recorder import Recorder


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.inner(x)).sum()


#: Line of `forward` that calls gelu, and so makes the node of its backward.
LINE = inspect.getsourcelines(Head.forward)[1] + 1


def backward_of_gelu(uses: list[OpUse]) -> OpUse:
    (found,) = [use for use in uses if use.op == "aten::gelu_backward"]
    return found


def step(model: nn.Module, device: str) -> None:
    x = torch.ones(2, 4, device=device, requires_grad=True)
    model(x).backward()
    assert x.grad is not None


def test_backward_on_the_virtual_device_names_the_forward() -> None:
    recorder = Recorder(model := Head())
    observer = RecorderObserver(recorder)
    with mpsprobe.emulate(observer=observer), recorder.paths.following():
        model.to("mps")
        step(model, "mps")
    use = backward_of_gelu(recorder.op_uses())
    assert use.source.endswith(f"test_backward.py:{LINE}")


def test_backward_on_the_cpu_names_the_forward() -> None:
    model = nn.ModuleDict({"head": Head()})
    with record(model) as recorder:
        step(model["head"], "cpu")
    use = backward_of_gelu(recorder.op_uses())
    assert use.source.endswith(f"test_backward.py:{LINE}")
    assert use.module == "head"


def test_backward_without_memory_names_the_forward() -> None:
    recorder = Recorder(model := Head())
    with predict(observer=RecorderObserver(recorder)), recorder.paths.following():
        model.to("mps")
        step(model, "mps")
    assert backward_of_gelu(recorder.op_uses()).source.endswith(f":{LINE}")


def test_finding_in_a_backward_names_the_forward() -> None:
    with mpsprobe.emulate(torch="2.4", fallback=True) as session:
        x = torch.ones(3, 4, device="mps", requires_grad=True)
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        distances = torch.cdist(x, torch.zeros(2, 4, device="mps"))
        with pytest.warns(UserWarning, match="_cdist_backward"):
            distances.sum().backward()
    found: list[Finding] = [one for one in session.findings if one.op == "aten::_cdist_backward"]
    assert [one.source.rpartition(":")[2] for one in found] == [str(line)]


def test_own_backward_of_a_function_is_its_own_line() -> None:
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(_ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return grad.atan()

    recorder = Recorder()
    with mpsprobe.emulate(observer=RecorderObserver(recorder)):
        Own.apply(torch.ones(2, device="mps", requires_grad=True)).sum().backward()
    (use,) = [one for one in recorder.op_uses() if one.op == "aten::atan"]
    assert use.source.endswith(f":{inspect.getsourcelines(Own.backward)[1] + 2}")


def test_checkpointing_recomputes_at_the_line_of_the_model() -> None:
    recorder = Recorder(model := Head())
    with mpsprobe.emulate(observer=RecorderObserver(recorder)):
        model.to("mps")
        x = torch.ones(2, 4, device="mps", requires_grad=True)
        checkpoint(model, x, use_reentrant=False).backward()
    (use,) = [
        one for one in recorder.op_uses() if one.op == "aten::linear"
    ]  # gelu itself is not needed again
    assert (use.count, use.source.rpartition(":")[2]) == (2, str(LINE))


#: Guidance as libraries write it, and a training step without a word about modes.
TARGETS = {
    "guidance": "with torch.enable_grad():\n        x = b['x'].requires_grad_()\n"
    "        g, = torch.autograd.grad(m(x).sum(), x)\n    return g",
    "training": "loss = m(b['x']).sum()\n    loss.backward()\n    return m.weight.grad",
}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("guidance", "predict"),
        ("training", "predict"),
        ("training", "run --device emulated --phase 6"),
        ("guidance", "run --device cpu --phase 6"),
    ],
)
def test_target_may_take_gradients(name: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / "target.py"
    path.write_text(
        "import torch\ndef load(device, dtype, weights='stored'):\n    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(4, 2).to(device)\n"
        "def sample(): return {'x': 0}\ndef prepare(s): return {'x': torch.ones(1, 4)}\n"
        f"def infer(m, b):\n    {TARGETS[name]}\ndef extract(r): return {{'g': r.cpu()}}\n"
    )
    verb, *options = command.split()
    extra = ["--output", str(tmp_path / "out")] if verb == "run" else []
    result = CliRunner().invoke(cli, [verb, str(path), *options, *extra])
    assert result.exit_code == 0, result.output
