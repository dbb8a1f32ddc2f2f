"""The suites' script must see a difference, say its kind, and get past tests that die or hang."""

import subprocess
import sys
from pathlib import Path

import pytest

import library_suites

_SAME = """
import os

import pytest
import torch

DEVICE = os.environ["TRANSFORMERS_TEST_DEVICE"]

def test_adds():
    assert (torch.ones(2, device=DEVICE) + 1).tolist() == [2, 2]

@pytest.mark.skipif(DEVICE == "cpu", reason="test requires accelerator")
def test_of_accelerators():
    torch.mps.synchronize()

@pytest.mark.skip(reason="slow")
def test_is_slow():
    raise AssertionError
"""

_DIFFERENT = """
import os
import signal
import time

import torch

DEVICE = os.environ["TRANSFORMERS_TEST_DEVICE"]

def test_counts_in_float64():
    torch.ones(2, device=DEVICE, dtype=torch.float64)

def test_kills_its_process():
    if DEVICE == "mps":
        os.kill(os.getpid(), signal.SIGKILL)

def test_hangs():
    if DEVICE == "mps":
        time.sleep(600)

def test_wants_the_cpu():
    assert torch.ones(1, device=DEVICE).device.type == "cpu"

def test_comes_last():
    assert torch.backends.mps.is_available() == (DEVICE == "mps")
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    folder = tmp_path_factory.mktemp("library")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_same.py").write_text(_SAME)
    (folder / "tests" / "test_different.py").write_text(_DIFFERENT)
    results = folder / "results"
    done = subprocess.run(
        [
            *(sys.executable, str(Path(library_suites.__file__)), "transformers", str(folder)),
            *("tests/test_*.py", "--results", str(results), "--seconds", "5", "--jobs", "2"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, results.read_text().splitlines()


def test_differences_are_counted_by_kind(outcome: tuple[str, list[str]]) -> None:
    rows = [line for line in outcome[0].splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1:] for row in rows[1:]] == [
        ["1", "0", "0", "0", "1", "0", "0", "0", "3 |"],
        ["1", "1", "0", "1", "0", "0", "0", "0", "0 |"],
        ["2", "1", "0", "1", "1", "0", "0", "0", "3 |"],
    ]


def test_each_difference_is_explained(outcome: tuple[str, list[str]]) -> None:
    said = outcome[0]
    assert "limit of MPS, 1: TypeError: Cannot convert a MPS Tensor to float64" in said
    assert "unexplained, 1: test_kills_its_process: died" in said
    assert "unexplained, 1: test_hangs: hung" in said
    assert "test_wants_the_cpu: AssertionError" in said


def test_what_has_its_outcome_does_not_run_again(outcome: tuple[str, list[str]], tmp_path: Path) -> None:
    results = library_suites.Results(tmp_path / "results")
    unit = "tests/test_gone.py"
    results.add({"finished": unit, "device": device} for device in ("cpu", "mps"))
    library_suites.run_unit(tmp_path, unit, "mps", results, library_suites.Limits(1, 1, 1))
    assert results.lines == library_suites.Results(tmp_path / "results").lines


def test_only_what_differs_is_forgotten(tmp_path: Path) -> None:
    results = library_suites.Results(tmp_path / "results")
    same = {"unit": "a", "test": "a::one", "outcome": "passed"}
    different = {"unit": "b", "test": "b::one", "device": "mps", "outcome": "failed"}
    twin = {**different, "device": "cpu", "outcome": "passed"}
    results.add([{**same, "device": "cpu"}, {**same, "device": "mps"}, different, twin])
    results.add([{"finished": unit, "device": "mps"} for unit in ("a", "b")])
    results.forget_differences()
    assert {line.get("test") for line in results.lines} == {"a::one", None}
    assert results.finished("a", "mps")
    assert not results.finished("b", "mps")


def test_unknown_patterns_end_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no tests/\*\.py: give"):
        library_suites.units_of(tmp_path, ["tests/*.py"])
