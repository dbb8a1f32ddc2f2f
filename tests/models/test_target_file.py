"""A user's file as a target: what it may have, and what is said of one that lacks something."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mpsprobe.errors import MpsprobeError, ProfileError, UsageError
from mpsprobe.models import choose
from mpsprobe.models.adapter import Adapter, Weights
from mpsprobe.models.targets import resolve
from mpsprobe.options import Settings

_LEAST = """
import torch
from beside import WIDTH

def load(device, dtype):
    return torch.nn.Linear(WIDTH, 2).to(device, dtype)
def sample():
    return {"x": torch.ones(1, WIDTH)}
def infer(model, batch):
    return model(batch["x"])
def extract(raw):
    return {"y": raw.cpu()}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "target.py").write_text(_LEAST)
    return tmp_path / "target.py"


def _adapter(file: Path) -> Adapter:
    ref = resolve(Settings(str(file)))
    return choose.make_adapter(ref.profile, file.parent)


def test_four_functions_are_enough(file: Path) -> None:
    adapter = _adapter(file)
    model = adapter.load(torch.device("cpu"), "float16")
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not model.training
    model = adapter.load(torch.device("cpu"), "auto")
    outputs = adapter.extract(adapter.infer(model, adapter.prepare(adapter.sample())))
    assert outputs["y"].shape == (1, 2)
    assert adapter.forward(model, adapter.prepare(adapter.sample())).keys() == {"y"}
    assert adapter.judge(outputs) is None
    assert adapter.shrink() is None


def test_load_is_told_of_weights_where_it_asks(file: Path) -> None:
    adapter = _adapter(file)
    adapter.weights = Weights.RANDOM
    with pytest.raises(UsageError, match="decides itself"):
        adapter.load(torch.device("cpu"), "auto")
    file.write_text(_LEAST.replace("dtype):", "dtype, weights):\n    assert weights == 'random'", 1))
    adapter = _adapter(file)
    adapter.weights = Weights.RANDOM
    adapter.load(torch.device("cpu"), "auto")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import torch\n", r"lacks load\(device, dtype\), sample\(\), infer\(model, batch\), extract\(raw\)"),
        ("def load(:\n", "SyntaxError"),
        (
            "\n\nimport no_such_package\n",
            r"ModuleNotFoundError: No module named 'no_such_package' \(at line 3\)",
        ),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        (f"{_LEAST}\njudge = 3\n", "judge is no function"),
    ],
)
def test_a_file_that_is_no_target_says_why_in_one_line(file: Path, text: str, says: str) -> None:
    file.write_text(text)
    with pytest.raises(MpsprobeError, match=says) as caught:
        _adapter(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return torch.nn.Linear(WIDTH, 2).to(device, dtype)", "return 3", "load returned a int"),
        ('return {"x": torch.ones(1, WIDTH)}', "return 3", "sample returned a int"),
    ],
)
def test_a_function_that_gives_something_else_is_named(file: Path, old: str, new: str, says: str) -> None:
    file.write_text(_LEAST.replace(old, new))
    adapter = _adapter(file)

    def use() -> None:
        adapter.load(torch.device("cpu"), "auto")
        adapter.sample()

    with pytest.raises(MpsprobeError, match=says):
        use()


def test_the_profile_beside_it_is_its_own(file: Path) -> None:
    beside = file.with_suffix(".toml")
    beside.write_text('name = "own"\ntitle = "Own"\nadapter = "target.py"\ndtype = "float32"\n')
    for wanted in (Settings(str(file)), Settings(profile=str(beside))):
        ref = resolve(wanted)
        assert (ref.profile.name, ref.profile.dtype, ref.file) == ("own", "float32", file)
    beside.write_text('name = "own"\ntitle = "Own"\nadapter = "package:Class"\n')
    with pytest.raises(UsageError, match=r'adapter = "target\.py"'):
        resolve(Settings(str(file)))
    beside.write_text('name = "own"\ntitle = "Own"\nadapter = "absent.py"\n')
    with pytest.raises(ProfileError, match="no such file beside it"):
        resolve(Settings(str(file)))


def test_no_such_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve(Settings(str(tmp_path / "absent.py")))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"neither a config\.json, a \.gguf nor a \.py file"):
        resolve(Settings(str(tmp_path / "notes.txt")))
