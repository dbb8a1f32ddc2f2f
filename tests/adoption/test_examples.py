"""What other repositories adopt: the example repository, the GitHub action, the pre-commit hook."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpsprobe.run import Phase, Run, Status

CHECKOUT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((CHECKOUT / "action.yml").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_example_repository_passes_its_suite(tmp_path: Path) -> None:
    there = shutil.copytree(CHECKOUT / "examples" / "adopt", tmp_path / "adopt")
    phases = " or ".join([*(f"phase{number}" for number in range(1, 7)), "benchmark"])
    report = ["--mpsprobe-report", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", phases, *report],
        cwd=there,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    # the emulated device has no speed: its benchmarks are reached, and make no row of pytest-benchmark's table
    checks = Run.load(tmp_path / "out" / "run.json").checks
    assert {one.status for one in checks if one.phase is Phase.BENCHMARK} == {Status.SKIPPED}
    assert "Name (time in" not in done.stdout


def run_step(tmp_path: Path, status: int, **inputs: str) -> tuple[int, str, str]:
    """Run the action's shell with a stand-in for mpsprobe; its exit code, the arguments and the outputs."""
    binaries = tmp_path / "bin"
    binaries.mkdir(exist_ok=True)
    tool = binaries / "mpsprobe"
    tool.write_text(f'#!/bin/sh\nprintf "%s|" "$@" > "{tmp_path}/arguments"\nexit {status}\n')
    tool.chmod(0o755)
    defaults = {name: str(one.get("default", "")) for name, one in ACTION["inputs"].items()}
    values = {**defaults, **{name.replace("_", "-"): value for name, value in inputs.items()}}
    step = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "run")
    environment = {
        name: values[template.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, template in step["env"].items()
    }
    output = tmp_path / "output"
    output.write_text("")
    (tmp_path / "arguments").write_text("")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        env={**environment, "PATH": f"{binaries}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output)},
        capture_output=True,
        text=True,
    )
    return done.returncode, (tmp_path / "arguments").read_text(), output.read_text()


def test_the_action_hands_its_inputs_on(tmp_path: Path) -> None:
    code, arguments, outputs = run_step(
        tmp_path, 0, model="./my model", device="emulated", torch="2.8", arguments="--random-init --shrink"
    )
    assert code == 0
    assert arguments == (
        "run|--device|emulated|--output|mpsprobe-report|--torch|2.8|--random-init|--shrink|./my model|"
    )
    assert outputs == "status=0\n"


@pytest.mark.parametrize(("fail_on", "expected"), [("fail", 3), ("never", 0)])
def test_the_action_fails_as_it_was_told(tmp_path: Path, fail_on: str, expected: int) -> None:
    code, _, outputs = run_step(tmp_path, 3, fail_on=fail_on)
    assert (code, outputs) == (expected, "status=3\n")


def test_the_action_runs_no_input_as_shell(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    _, arguments, _ = run_step(tmp_path, 0, model=f"$(touch {planted})", arguments=f"; touch {planted} #")
    assert not planted.exists()
    assert "touch" in arguments


def test_the_action_refuses_an_unknown_fail_on(tmp_path: Path) -> None:
    assert run_step(tmp_path, 0, fail_on="sometimes")[0] == 2


def test_every_action_of_a_workflow_is_pinned_by_commit() -> None:
    for path in sorted((CHECKOUT / ".github" / "workflows").glob("*.yml")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "uses:" in line and "./" not in line:
                reference = line.split("uses:")[1].split("#")[0].strip()
                assert len(reference.partition("@")[2]) == 40, f"{path.name}: {reference}"


def test_every_input_and_output_of_the_action_is_documented() -> None:
    page = (CHECKOUT / "docs" / "ci.md").read_text(encoding="utf-8")
    assert [name for name in ACTION["inputs"] if f"| `{name}` |" not in page] == []
    assert [name for name in ACTION["outputs"] if f"`{name}`, " not in page] == []
