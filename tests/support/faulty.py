"""A target of one small layer that misbehaves where and how its profile says.

`sample = { at = "load", fault = "abort" }` in the profile makes `load` abort; see `FAULTS`.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile

#: Fault -> what it does.
FAULTS = {
    "abort": lambda: os.abort(),
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), 9),
    "exit": lambda: os._exit(7),
    "hang": lambda: time.sleep(3600),
    # A loop in C that looks at no signal and keeps the interpreter's lock: as a hung kernel does.
    "native-hang": lambda: collections.deque(itertools.repeat(0), maxlen=0),
    "raise": lambda: _raise(RuntimeError("planted \ud800")),  # a lone surrogate: no JSON can hold it
    "system-exit": lambda: sys.exit(3),
    "keyboard-interrupt": lambda: _raise(KeyboardInterrupt("planted")),
    "pytest-exit": lambda: pytest.exit("planted", 0),
    "pytest-skip": lambda: pytest.skip("planted"),
    "close-stdout": lambda: os.closerange(1, 2),  # also where it is closed already
    "fork-and-return": lambda: os.fork(),
    "missing-op": lambda: _raise(NotImplementedError("The operator 'aten::planted' is not implemented")),
    "abort-in-op": lambda: _op(_abort),
    "hang-in-op": lambda: _op(_sleep),
    "metal": lambda: (
        sys.stderr.write("failed assertion `planted Metal assertion'\n"),
        sys.stderr.flush(),
        os.abort(),
    ),
}


def _op(kernel: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Call an op whose kernel does that."""
    library = torch.library.Library("faulty", "DEF")
    library.define("op(Tensor x) -> Tensor")
    library.impl("op", kernel, "CompositeExplicitAutograd")
    torch.ops.faulty.op(torch.zeros(2, 3))


def _abort(_x: torch.Tensor) -> torch.Tensor:
    os.abort()


def _sleep(x: torch.Tensor) -> torch.Tensor:
    time.sleep(3600)
    return x


def _raise(problem: BaseException) -> None:
    raise problem


def build() -> Path:
    """The target's folder: one weight of a fixed seed."""
    folder = Path(tempfile.gettempdir()) / f"mpsprobe-faulty-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file({"weight": torch.randn(4, 4), "bias": torch.randn(4)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["Faulty"]}')
    return folder


def build_and_die() -> Path:
    """A builder that never ends: a download that hangs."""
    time.sleep(3600)
    raise AssertionError


class Faulty(Adapter):
    """See the module."""

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self._loads = 0

    def _fault(self, at: str) -> str:
        """Commit the fault planned for this step, or name one that changes values instead."""
        if self.profile.sample.get("at") != at:
            return ""
        fault: str = self.profile.sample["fault"]
        if fault in FAULTS:
            FAULTS[fault]()
        return fault

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        fault = self._fault("load")
        layer = torch.nn.Linear(4, 4)
        layer.load_state_dict(load_file(self.snapshot / "model.safetensors"))
        self._loads += 1
        if fault == "wrong-weights" and self._loads == 1:
            with torch.no_grad():
                layer.weight.add_(1)
        if fault == "double":
            layer.register_buffer("scale", torch.ones(1, dtype=torch.float64))
        if fault == "stray":
            layer.register_buffer("lost", torch.ones(1, device="meta"))
        return layer.eval()

    def sample(self) -> dict[str, Any]:
        self._fault("sample")
        return {"x": torch.linspace(-1, 1, 4).reshape(1, 4)}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        fault = self._fault("prepare")
        x = sample["x"]
        if fault == "double":
            x = x.double()
        if fault == "random":
            x = x + torch.rand(1)
        return {"input": x}

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        fault = self._fault("forward")
        y = model(batch["input"])
        if fault == "wrong" and self._loads == 1:  # the reference is a second load
            y = y + 0.5
        return {"y": y}

    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        fault = self._fault("infer")
        y = model(batch["input"])
        if fault == "nan":
            y[0, 0] = float("nan")
        if fault == "drift":
            y = y + torch.rand(1)
        return y

    def extract(self, raw: Any) -> Outputs:
        self._fault("extract")
        return {"y": raw.cpu()}
