"""A whole suite of op uses that misbehave, with sound ones between them: every one gets its own answer.

The other half, faults in the six phases, is in tests/test_supervisor.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpsprobe.ops.distinct import use_name
from mpsprobe.ops.protocol import ReplayOutcome
from mpsprobe.run import DeviceChoice, Host, OpUse, Run, Status, Target, TensorMeta
from tests.ops.test_isolation import DEADLY, FAULTS, PACKAGES
from tests.supervision.test_supervisor import CHECKOUT, PROFILE

pytestmark = pytest.mark.own_process

_STATUS = {
    ReplayOutcome.NATIVE: Status.PASS,
    ReplayOutcome.VARIES: Status.WARN,
    ReplayOutcome.CRASHED: Status.CRASHED,
    ReplayOutcome.HANGS: Status.TIMEOUT,
}
_DTYPES = ("float32", "bfloat16")


def planted(name: str, dtype: str = "float32") -> OpUse:
    tensor = TensorMeta(dtype, (4, 5), (5, 1), "mps:0")
    return OpUse(op=f"planted::{name}", inputs=[tensor], outputs=[tensor])


def campaign(faults: list[str]) -> tuple[list[OpUse], dict[str, Status]]:
    """Op uses, and the status that each must have."""
    uses, expected = [], {}
    for name in faults:
        for dtype in _DTYPES:
            for op, outcome in ((name, FAULTS[name][0]), (f"beside_{name}", ReplayOutcome.NATIVE)):
                # 1e-7 more is nothing in bfloat16
                lost = (op, dtype) == ("varies", "bfloat16")
                use = planted(op, dtype)
                uses.append(use)
                expected[f"ops.{use_name(use)}"] = _STATUS.get(
                    ReplayOutcome.NATIVE if lost else outcome, Status.FAIL
                )
    return uses, expected


def suite(tmp_path: Path, uses: list[OpUse], *more: str) -> tuple[Run, str]:
    """`pytest -m ops` on these op uses."""
    Run(
        mpsprobe="1",
        id="1",
        started="",
        target=Target(name="planted", profile=""),
        host=Host(system="Linux", machine="x86_64", os_version=""),
        device=DeviceChoice("emulated", "emulated", ""),
        op_uses=uses,
    ).save(tmp_path / "planted.json")
    (tmp_path / "test_mac.py").write_text("from mpsprobe.suite import *\n")
    profile = tmp_path / "faulty.toml"
    profile.write_text(
        PROFILE.format(at="", fault="", limits="{ ops = 6 }", builder="tests.support.faulty:build")
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "ops",
            "--mpsprobe-ops", str(tmp_path / "planted.json"), "--mpsprobe-device", "emulated",
            "--mpsprobe-profile", str(profile), "--mpsprobe-report", str(tmp_path / "out"), *more,
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "src"), str(PACKAGES)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=1800,
    )  # fmt: skip
    return Run.load(tmp_path / "out" / "run.json"), done.stdout


@pytest.mark.slow
def test_no_fault_costs_another_op_its_answer(tmp_path: Path) -> None:
    uses, expected = campaign(list(FAULTS))
    assert len(expected) >= 60
    run, output = suite(tmp_path, uses)
    found = {check.id: check.status for check in run.checks}
    wrong = {
        id_: (found.get(id_), status) for id_, status in expected.items() if found.get(id_) is not status
    }
    assert not wrong, output[-3000:]
    assert set(found) == set(expected), "and no other check came to be"
    assert run.interruption is None
    for check in run.checks:
        if check.status in (Status.CRASHED, Status.TIMEOUT):
            assert check.id.split(".")[2].split("-")[0] in check.message


def test_expectations_turn_known_faults_into_warnings(tmp_path: Path) -> None:
    names = sorted(set(FAULTS) - DEADLY)
    uses = [planted(name) for name in (*names, "abort")]
    (tmp_path / "x.toml").write_text(
        "[[expect]]\ntorch = '==2.*'\nreason = 'issue 7'\nids = ['ops.planted.nan-f32-4x5', 'ops.planted.gone']\n"
        "[[expect]]\ntorch = '==1.*'\nids = ['ops.planted.zeros-f32-4x5']\n"
    )
    (tmp_path / "s.toml").write_text("[[expect]]\nids = ['ops.planted.abort*']\n")
    run, output = suite(tmp_path, uses, "--mpsprobe-xfails-file", "x.toml", "--mpsprobe-skips-file", "s.toml")
    found = {check.id: check for check in run.checks}
    assert found["ops.planted.nan-f32-4x5"].status is Status.WARN
    assert "issue 7" in found["ops.planted.nan-f32-4x5"].message
    assert found["ops.planted.zeros-f32-4x5"].status is Status.FAIL
    assert found["ops.planted.abort-f32-4x5"].status is Status.SKIPPED
    assert "ops.planted.gone: an expectation file names it" in output
    assert "issue 7" in output or "1 failed" not in output
