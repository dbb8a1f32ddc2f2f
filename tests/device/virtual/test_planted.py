"""Faults as they stand in real models: each fails with the Mac's own message, at the line that has it."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.device.virtual.session import emulate

pytestmark = pytest.mark.own_process


class Float64Buffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(4, dtype=torch.float64))


class ComplexRope(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(torch.arange(4), 1e4 ** -torch.arange(0, 1, 0.5, dtype=torch.float64))
        turns = torch.polar(torch.ones_like(angles), angles).to(x.device)
        return torch.view_as_real(torch.view_as_complex(x) * turns)  # fault: complex rope


class MissingOp(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x @ x.mT)  # fault: missing op


class CpuGenerator(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seeded = torch.Generator().manual_seed(0)
        return x + torch.randn(x.shape, generator=seeded, device=x.device)  # fault: CPU generator


class Numpy(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x.numpy()  # fault: numpy


class Cuda(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to("cuda")  # fault: cuda


class Autocast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("mps", dtype=torch.float16):  # fault: autocast
            return x @ x.mT


class Large(nn.Module):
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.empty(3 << 30, dtype=torch.uint8, device=x.device) for _ in range(4)]  # fault: memory


def _moved() -> nn.Module:
    return Float64Buffer().to("mps")  # fault: float64 buffer


def _forward(model: type[nn.Module]) -> Callable[[], Any]:
    return lambda: model().to("mps")(torch.ones(4, 2, 2, device="mps"))


FAULTS: list[tuple[str, str, Callable[[], Any], type[Exception], str]] = [
    (
        "2.13",
        "fault: float64 buffer",
        _moved,
        TypeError,
        "Cannot convert a MPS Tensor to float64 dtype",
    ),
    (
        "2.13",
        "fault: complex rope",
        _forward(ComplexRope),
        RuntimeError,
        "Undefined type ComplexDouble",
    ),
    (
        "2.13",
        "fault: missing op",
        _forward(MissingOp),
        NotImplementedError,
        "The operator 'aten::_linalg_eigh.eigen",
    ),
    (
        "2.13",
        "fault: CPU generator",
        _forward(CpuGenerator),
        RuntimeError,
        "Expected a 'mps' device type for gener",
    ),
    (
        "2.13",
        "fault: numpy",
        _forward(Numpy),
        TypeError,
        "can't convert mps:0 device type tensor to numpy. Use",
    ),
    ("2.13", "fault: cuda", _forward(Cuda), AssertionError, "Torch not compiled with CUDA enabled"),
    (
        "2.4",
        "fault: autocast",
        _forward(Autocast),
        RuntimeError,
        "User specified an unsupported autocast device_ty",
    ),
    (
        "2.13",
        "fault: memory",
        _forward(Large),
        RuntimeError,
        "MPS backend out of memory (MPS allocated: 9.00 GiB",
    ),
]


@pytest.mark.parametrize(
    ("release", "line", "run", "error", "text"),
    FAULTS,
    ids=[fault[1].removeprefix("fault: ") for fault in FAULTS],
)
def test_fault(release: str, line: str, run: Callable[[], Any], error: type[Exception], text: str) -> None:
    with emulate(release, "15.5", memory_gb=8, fallback=False), pytest.raises(error) as caught:
        run()
    assert str(caught.value).startswith(text)
    mine = [frame for frame in traceback.extract_tb(caught.tb) if frame.filename == __file__]
    assert line in (mine[-1].line or "")


#: Faults that can be noted and passed by, as `mpsprobe predict` does; the others stop a program on any machine.
_NOTED = (
    "fault: float64 buffer",
    "fault: complex rope",
    "fault: missing op",
    "fault: CPU generator",
    "fault: memory",
)


@pytest.mark.parametrize("fault", [one for one in FAULTS if one[1] in _NOTED], ids=lambda one: one[1][7:])
def test_fault_is_noted_with_its_line(
    fault: tuple[str, str, Callable[[], Any], type[Exception], str],
) -> None:
    release, line, run, _error, text = fault
    with emulate(release, "15.5", memory_gb=8, fallback=False, on_fail="collect") as session:
        run()
    finding = next(one for one in session.findings if one.message.startswith(text))
    file, _, number = finding.source.rpartition(":")
    assert file == __file__
    assert line in linecache.getline(file, int(number))
