"""The measured path, rehearsed: `--device mps` on a stand-in for a Mac's PyTorch, with the answers of a recorded Mac.

Nothing here says how Metal computes; it says that what only a Mac runs of mpsprobe runs: facts, phases, replay, probes,
benchmarks, the flight recorder, comparisons.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.forecast import calibration
from mpsprobe.models.hub import cache
from tests.support import stand_in

pytestmark = pytest.mark.slow


def mpsprobe(*arguments: str, mac: str = "m2", **variables: str) -> subprocess.CompletedProcess[str]:
    return stand_in.run("-m", "mpsprobe", *arguments, mac=mac, timeout=1500, **variables)  # type: ignore[arg-type]


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def checks(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in run["checks"]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A whole run of the default target on the M2."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, mpsprobe("run", "--device", "mps", "--output", str(folder))


def test_doctor_on_an_m2() -> None:
    ran = mpsprobe("doctor")
    assert ran.returncode == 0, ran.stderr
    assert "macOS 15.5 on arm64" in ran.stdout
    assert "Apple M2, 8 cores" in ran.stdout
    assert "MPS computes here" in ran.stdout
    assert "Prediction works here" in ran.stdout


@pytest.mark.parametrize(("mac", "said"), [("rosetta", "under Rosetta"), ("intel", "Intel processor")])
def test_doctor_names_an_x86_python_in_one_line(mac: str, said: str) -> None:
    ran = stand_in.run("-m", "mpsprobe", "doctor", mac=mac, mps=False)
    assert ran.returncode == 1
    (verdict,) = [line for line in ran.stdout.splitlines() if line.startswith("MPS does not compute here")]
    assert said in verdict


def test_every_phase_passes_and_is_measured(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, ran = whole
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert "passed all six phases on mps (measured on this Mac, Apple M2)" in ran.stdout
    run = document(folder)
    assert (run["host"]["system"], run["host"]["chip"], run["device"]["used"]) == (
        "Darwin",
        "Apple M2",
        "mps",
    )
    assert (run["mac"]["macos"], run["mac"]["chip"]) == ("15.5", "Apple M2")
    by_id = checks(run)
    assert not [
        name for name, one in by_id.items() if one["status"] in ("fail", "error", "crashed", "blocked")
    ]
    measured = [one for one in by_id.values() if one["status"] == "pass" and one["evidence"] == "measured"]
    assert len(measured) > 25


def test_a_report_and_a_comparison_are_drawn_of_it(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = whole
    text = (folder / "report.md").read_text()
    assert "Apple M2" in text
    assert "macOS 15.5" in text
    ran = mpsprobe("compare", str(folder / "run.json"), str(folder / "run.json"))
    assert ran.returncode == 0, ran.stderr


def test_an_abort_of_metal_names_the_op_in_flight(tmp_path: Path) -> None:
    ran = mpsprobe(
        "run", "--device", "mps", "--phase", "6", "--output", str(tmp_path),
        STAND_IN_ABORT="aten::native_layer_norm",
    )  # fmt: skip
    assert ran.returncode != 0
    crashed = [one for one in checks(document(tmp_path)).values() if one["status"] == "crashed"]
    assert crashed
    text = json.dumps(crashed)
    assert "SIGABRT" in text
    assert "Op in flight: aten::layer_norm" in text
    assert "modeling_qwen3_vl.py" in text
    assert "failed assertion `[MPSNDArray" in text


def test_a_runner_with_nothing_free_is_recognised() -> None:
    ran = mpsprobe("doctor", mac="runner", STAND_IN_NOTHING_FREE="1")
    assert ran.returncode == 1
    assert "virtual GPU of a CI runner" in ran.stdout


def test_a_virtual_gpu_is_no_evidence_for_real_macs(tmp_path: Path) -> None:
    ran = mpsprobe("run", "--device", "mps", "--phase", "1", "--output", str(tmp_path), mac="runner")
    assert "not evidence for real Macs" in ran.stdout + json.dumps(document(tmp_path)["limits"])
    assert document(tmp_path)["host"]["virtual_gpu"] is True


def test_the_watermark_stops_a_model_that_is_too_large(tmp_path: Path) -> None:
    ran = mpsprobe(
        "run", "--device", "mps", "--phase", "4", "--output", str(tmp_path),
        STAND_IN_WORKING_SET=str(8 << 20),
        PYTORCH_MPS_HIGH_WATERMARK_RATIO="0.3", PYTORCH_MPS_LOW_WATERMARK_RATIO="0.2",
    )  # fmt: skip
    assert ran.returncode == 1
    failed = [one for one in checks(document(tmp_path)).values() if one["status"] == "fail"]
    assert any("MPS backend out of memory" in json.dumps(one) for one in failed)


_FALLING_BACK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 8)
    def forward(self, x):
        x = self.first(x)
        return torch.linalg.eigh(x @ x.transpose(-1, -2))[0]

def load(device, dtype, weights="stored"):
    torch.manual_seed(0)
    return Net().to(device)

def sample():
    return {"rows": 8}

def prepare(sample):
    return {"x": torch.eye(sample["rows"])[None]}

def infer(model, batch):
    return model(batch["x"])

def extract(result):
    return {"values": result.float().cpu()}
"""


@pytest.mark.parametrize(("fallback", "log"), [("0", "4"), ("1", "4"), ("1", "0x48")])
def test_a_missing_op_falls_back_or_is_refused(tmp_path: Path, fallback: str, log: str) -> None:
    (tmp_path / "target.py").write_text(_FALLING_BACK)
    ran = mpsprobe(
        "run", str(tmp_path / "target.py"), "--device", "mps", "--output", str(tmp_path / "out"),
        PYTORCH_ENABLE_MPS_FALLBACK=fallback, PYTORCH_MPS_LOG_PROFILE_INFO=log,
    )  # fmt: skip
    run = document(tmp_path / "out")
    by_id = checks(run)
    text = json.dumps(by_id)
    assert "_linalg_eigh" in text
    if fallback == "0":
        assert ran.returncode == 1
        assert "is not currently implemented for the MPS device" in text
    else:
        assert by_id["inference.runs"]["status"] == "pass"
        (seen,) = run["logged_fallbacks"]
        assert seen["op"] == "aten::_linalg_eigh"
        assert seen["runs"] > 1
        assert (seen.get("seconds") is not None) == (log != "4")  # the table states times
        assert "Ops that the CPU ran" in (tmp_path / "out" / "report.md").read_text()


def test_diverge_against_a_baseline(tmp_path: Path) -> None:
    baseline = tmp_path / "base.safetensors"
    made = mpsprobe("baseline", "--device", "cpu", "--output", str(baseline))
    assert made.returncode == 0, made.stdout[-1500:] + made.stderr[-1500:]
    ran = mpsprobe("diverge", "--device", "mps", "--against", str(baseline))
    assert ran.returncode == 0, ran.stdout[-1500:] + ran.stderr[-1500:]


_CALIBRATING = """
import sys
from mpsprobe import cli
from mpsprobe.forecast import calibrate, clock, host_cost
# a float16 matmul of the usual sizes takes minutes on the CPU behind the stand-in
calibrate._ROWS, calibrate._SIZES, calibrate._COLD = (1, 4), (64, 128), {"mps": 1 << 20}
calibrate._ATTENTIONS, calibrate._CONVS = ((2, 4, 16),), ((1, 8, 8, 3),)
calibrate._STREAMS, calibrate._NORMS = (1 << 12, 1 << 14), ((32, 8),)
calibrate.REFUSED, host_cost._RUNS = 1e9, 1  # other work on this machine is no reason here
clock._BUDGET = 0.001
sys.argv = ["mpsprobe", "calibrate", "--device", "mps", "--output", OUTPUT]
sys.exit(cli.main())
"""


def test_calibrate_measures_the_mac(tmp_path: Path) -> None:
    file = tmp_path / "mps.json"
    ran = stand_in.run("-c", f"OUTPUT = {str(file)!r}\n{_CALIBRATING}", mac="m2")
    assert ran.returncode == 0, ran.stdout[-1500:] + ran.stderr[-1500:]
    found = json.loads(file.read_text())
    assert (found["device"], found["name"]) == ("mps", "Apple M2")
    measured = {(point["kind"], point["dtype"]) for point in found["points"]}
    assert {(kind, "float16") for kind in ("matmul", "attention", "conv")} <= measured


def test_files_are_kept_where_a_mac_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MPSPROBE_CACHE", raising=False)
    assert cache.cache_dir() == tmp_path / "Library/Caches/mpsprobe"
    assert calibration.default_file("mps") == tmp_path / "Library/Caches/mpsprobe/calibration-mps.json"
