"""Source lines against a planted module, whose lines are known because the test wrote them."""

from __future__ import annotations

import importlib.util
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mpsprobe import errors
from mpsprobe.models.tiny_drive import modeling
from mpsprobe.phases import target_code
from mpsprobe.suite import plugin
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.source import is_user_code, line_of, short_path

PLANTED = """\
import torch
from torch import nn


class Planted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.stack = nn.Sequential(nn.Tanh())

    def forward(self, x):
        y = self.linear(x)                      # addmm
        y = self.stack(y)                       # tanh
        y = nn.functional.softplus(y)           # softplus
        y = [torch.cos(part) for part in [y]]   # cos
        return (
            y[0]
            .exp()                              # exp
            .sqrt()                             # sqrt
        )
"""


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[types.ModuleType]:
    path = tmp_path / "planted_model.py"
    path.write_text(PLANTED)
    spec = importlib.util.spec_from_file_location("planted_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planted_model"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["planted_model"]


@pytest.mark.parametrize("op", ["addmm", "tanh", "softplus", "cos", "exp", "sqrt"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_an_op_is_traced_to_the_line_that_asks_for_it(planted: types.ModuleType, op: str, mode: type) -> None:
    model = planted.Planted()
    with mode(), record(model) as recorder:
        model(torch.ones(2, 4))
    (line,) = (number for number, text in enumerate(PLANTED.splitlines(), 1) if text.endswith(f"# {op}"))
    (use,) = (use for use in recorder.op_uses() if use.op == f"aten::{op}")
    assert use.source == f"{planted.__file__}:{line}"


def test_two_lines_are_two_uses_and_one_line_is_one() -> None:
    x = torch.ones(2)
    with record() as recorder:
        for _ in range(3):
            x.exp()
        x.exp()
    assert [use.count for use in recorder.op_uses()] == [3, 1]


@pytest.mark.parametrize(
    ("path", "user"),
    [
        (torch.nn.functional.__file__, False),
        (importlib.util.__file__, False),
        ("<string>", False),
        ("<frozen importlib._bootstrap>", False),
        (str(Path(torch.__file__).parent.parent / "transformers/models/llama/modeling_llama.py"), True),
        (str(Path(torch.__file__).parent.parent / "torchvision/ops/boxes.py"), True),
        ("/home/me/model.py", True),
    ],
)
def test_whose_code_it_is(path: str | None, user: bool) -> None:
    assert path is not None
    assert is_user_code(path) is user


def test_paths_are_short_where_they_can_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packages = Path(torch.__file__).parent.parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/cache/modules")
    short_path.cache_clear()
    try:
        assert short_path(str(packages / "transformers/cache_utils.py")) == "transformers/cache_utils.py"
        assert short_path(str(tmp_path / "mine/model.py")) == "mine/model.py"
        assert short_path("/cache/modules/remote/modeling.py") == "remote/modeling.py"
        assert short_path("/elsewhere/model.py") == "/elsewhere/model.py"
    finally:
        short_path.cache_clear()


def _line_of_failure(file: Path, text: str) -> str:
    """Where the exception of a file's `infer` is charged to."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    code = runpy.run_path(str(file))
    try:
        code["infer"]()
    except Exception as problem:
        return line_of(problem.__traceback__)
    raise AssertionError("it must raise")


def test_a_checkout_below_a_folder_named_torch_is_user_code(tmp_path: Path) -> None:
    file = tmp_path / "torch" / "target2.py"
    assert _line_of_failure(file, "def infer():\n    raise ValueError('broken')\n").endswith(
        "torch/target2.py:2"
    )


@pytest.mark.parametrize(
    "call",
    [
        "import json; json.loads('{')",
        "import numpy; numpy.linalg.inv(numpy.zeros((2, 2)))",
        "import torch; torch.linalg.inv(torch.zeros(2, 2))",
        "import re; re.compile('(')",
    ],
)
def test_an_exception_of_a_library_is_charged_to_its_caller(tmp_path: Path, call: str) -> None:
    file = tmp_path / "mine" / "model.py"
    assert _line_of_failure(file, f"def infer():\n    {call}\n").endswith("mine/model.py:2")


def test_a_line_of_mpsprobe_is_nobodys() -> None:
    for room in (errors, plugin, target_code):
        assert not is_user_code(str(room.__file__))
    assert is_user_code(str(modeling.__file__))  # the default target is a model
