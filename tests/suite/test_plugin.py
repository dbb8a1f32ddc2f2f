"""The suite adopted by another repository: gating, markers, ordering, outcomes in pytest's own words."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mpsprobe.run import Run, Status
from tests.supervision.test_supervisor import CHECKOUT, PROFILE

pytestmark = pytest.mark.own_process


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Another repository: one test file with one line, a conftest with a --device and a fixture of its own."""
    (tmp_path / "test_mac.py").write_text("from mpsprobe.suite import *\n")
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "def pytest_addoption(parser): parser.addoption('--device')\n"
        "@pytest.fixture\ndef model(): return 'theirs'\n"
    )
    (tmp_path / "test_own.py").write_text("def test_own(model): assert model == 'theirs'\n")
    profile(tmp_path)
    return tmp_path


def profile(folder: Path, fault: str = "", at: str = "", requires: str = "") -> None:
    text = PROFILE.format(at=at, fault=fault, limits="{}", builder="tests.support.faulty:build")
    (folder / "faulty.toml").write_text(text + (f"requires = [{requires!r}]\n" if requires else ""))


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--mpsprobe-device=cpu",
            "--mpsprobe-profile", str(folder / "faulty.toml"), "--mpsprobe-report", str(folder / "out"), *arguments,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip


def test_one_line_adopts_the_suite_beside_other_tests(elsewhere: Path) -> None:
    done = pytest_in(elsewhere, "-m", "not ops and not benchmark")
    assert done.returncode == 0, done.stdout
    run = Run.load(elsewhere / "out" / "run.json")
    assert [check.phase.order for check in run.checks] == sorted(check.phase.order for check in run.checks)
    assert {path.name for path in (elsewhere / "out").iterdir()} == {
        "run.json", "report.md", "report.html", "junit.xml",
    }  # fmt: skip


def test_a_star_import_takes_every_test() -> None:
    code = (
        "from mpsprobe.suite import *; import mpsprobe.suite as suite\n"
        "assert all(callable(globals()[name]) for name in suite.__all__)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_STATE = """
import sys

import torch
from transformers.models.auto import configuration_auto, modeling_auto


def state():
    auto = [dict(vars(one)["_extra_content"]) for one in (
        configuration_auto.CONFIG_MAPPING, modeling_auto.MODEL_MAPPING)]
    return torch.get_num_threads(), torch.get_default_dtype(), list(sys.path), auto
"""


def test_other_tests_find_the_process_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "state.py").write_text(_STATE)
    (tmp_path / "test_0_before.py").write_text(
        "import state, torch\ntorch.set_num_threads(2)\nBEFORE = []\n"
        "def test_before(): BEFORE.append(state.state())\n"
    )
    (tmp_path / "test_a_mac.py").write_text("from mpsprobe.suite import *\n")
    (tmp_path / "test_b_again.py").write_text("from mpsprobe.suite import *\n")
    (tmp_path / "test_c_after.py").write_text(
        "import state, test_0_before\ndef test_after(): assert [state.state()] == test_0_before.BEFORE\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--mpsprobe-device=cpu", "-v",
            "--mpsprobe-checks", "transfer.load,data.prepare",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("test_transfer[load] PASSED") == 2, done.stdout
    assert "test_after PASSED" in done.stdout


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_marker_runs_its_phase_and_makes_the_links_it_needs(elsewhere: Path, number: int) -> None:
    done = pytest_in(elsewhere, "-m", f"phase{number}")
    assert done.returncode == 0, done.stdout
    run = Run.load(elsewhere / "out" / "run.json")
    assert {check.phase.order for check in run.checks} == {number}


def test_later_phases_are_blocked_once_with_the_reason(elsewhere: Path) -> None:
    profile(elsewhere, "raise", "load")
    junit = elsewhere / "their-junit.xml"
    done = pytest_in(elsewhere, "-m", "not ops and not benchmark", f"--junitxml={junit}")
    assert done.returncode == 1
    blocked = [
        line for line in done.stdout.splitlines() if line.startswith("SKIPPED") and "blocked by" in line
    ]
    assert blocked
    assert all("blocked by phase 4 (transfer)" in line and "planted" in line for line in blocked)
    skipped = [case for case in ET.parse(junit).iter("testcase") if case.find("skipped") is not None]
    assert any("blocked by phase 4 (transfer)" in (c.find("skipped").get("message") or "") for c in skipped)  # type: ignore[union-attr]
    run = Run.load(elsewhere / "out" / "run.json")
    assert [check.id for check in run.checks if check.status is Status.FAIL] == ["transfer.load"]


def test_a_later_phase_alone_is_blocked_by_the_failed_one(elsewhere: Path) -> None:
    profile(elsewhere, requires="torch>=99")
    done = pytest_in(elsewhere, "-m", "phase6")
    run = Run.load(elsewhere / "out" / "run.json")
    assert {check.status for check in run.checks} == {Status.BLOCKED}
    assert "blocked by phase 2 (pins)" in done.stdout
    assert "torch>=99" not in done.stderr


def test_a_bug_of_ours_is_an_error_and_not_the_models_failure(elsewhere: Path) -> None:
    # Its check divides by zero, on a line of ours: what a bug in a check of ours looks like.
    (elsewhere / "conftest.py").write_text(
        "from mpsprobe.phases import data\n"
        "spec, found = data.CHECKS[1], {}\n"
        "exec(compile('def broken(link): return 1 / 0', data.__file__, 'exec'), found)\n"
        "object.__setattr__(spec, 'function', found['broken'])\n"
    )
    pytest_in(elsewhere, "-m", "phase5")
    run = Run.load(elsewhere / "out" / "run.json")
    broken = next(check for check in run.checks if check.status is Status.ERROR)
    assert "ZeroDivisionError" in broken.message
    assert "says nothing about the model" in broken.remedy


def test_without_the_suite_the_plugin_stays_out_of_the_way(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import sys\ndef test_own():\n"
        "    assert 'torch' not in sys.modules and 'mpsprobe.suite.run_in_progress' not in sys.modules\n"
        # like transformers' stand-ins for classes whose library is not installed: no attribute can be asked for
        "class Meta(type):\n"
        "    def __getattribute__(cls, name): raise ImportError(name)\n"
        "class Tokenizer(metaclass=Meta): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "mpsprobe" not in done.stdout


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--mpsprobe-device=tpu", "no such device"),
        ("--mpsprobe-profile=nothing", "no such profile"),
        ("--mpsprobe-model=./nothing", "no such folder"),
    ],
)
def test_bad_options_are_usage_errors_in_one_line(elsewhere: Path, option: str, says: str) -> None:
    done = pytest_in(elsewhere, "-m", "phase2", option)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert says in done.stderr
    assert "Traceback" not in done.stderr
