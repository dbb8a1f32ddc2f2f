"""Calibration: what it counts as dispatch, and its file."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest
import torch

from mpsprobe.device.real import real_device
from mpsprobe.errors import DataError
from mpsprobe.forecast import calibrate
from mpsprobe.forecast import calibration as calibrations
from mpsprobe.forecast.calibration import Calibration, Point
from mpsprobe.forecast.host_cost import _calls, shared_out, smalls

pytestmark = pytest.mark.own_process


def _calibration(device: str = "cuda", **more: object) -> Calibration:
    """1 TFLOP/s, 100 GB/s, 10 us an op."""
    points = [
        Point("matmul", "float32", 2 * 10**9, 10**7, 2e-3, "linear"),
        Point("stream", "float32", 0, 10**8, 1e-3, "add"),
    ]
    return msgspec.convert(
        {
            "device": device,
            "name": "round",
            "torch": "2.13.0",
            "python": "3.11",
            "threads": 1,
            "points": msgspec.to_builtins(points),
            "weights_bandwidth": 1e11,
            "host_seconds": {"stream": 1e-5, "view": 1e-6, "module": 2e-6},
            "kernel_seconds": 2e-6,
            "wait_seconds": 1e-5,
            "copy_bandwidth": 1e10,
            "took_seconds": 1.0,
            **more,
        },
        Calibration,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the predicting device runs on Linux")
def test_calls_are_counted_as_a_mac_counts_them() -> None:
    small = next(one for one in smalls() if one.name == "blocks")
    with torch.inference_mode():
        calls = _calls(small, real_device("cpu"))
    # a layer: seven linears, one attention, a SiLU, two rsqrt, two means, eleven modules
    assert {kind: calls[kind] for kind in ("matmul", "attention", "math", "reduction", "module")} == {
        "matmul": 56,
        "attention": 8,
        "math": 24,
        "reduction": 16,
        "module": 1 + 8 * 11,
    }


def test_times_of_models_are_shared_out_among_their_calls() -> None:
    """Three models, two kinds of calls, a host twice as slow as the prior."""
    rows = [
        (Counter({"matmul": 100, "view": 10}), 100 * 2e-5 + 10 * 2e-6),
        (Counter({"matmul": 10, "view": 400}), 10 * 2e-5 + 400 * 2e-6),
        (Counter({"matmul": 50, "view": 50}), 50 * 2e-5 + 50 * 2e-6),
    ]
    found = shared_out(rows, {"matmul": 1e-5, "view": 1e-6})
    assert found["matmul"] == pytest.approx(2e-5, rel=0.01)
    assert found["view"] == pytest.approx(2e-6, rel=0.01)
    assert shared_out([], {"matmul": 1e-5}) == {"matmul": 1e-5}


def test_host_times_are_those_of_the_file() -> None:
    machine = calibrations.machine(_calibration(host_seconds={"matmul": 2e-5, "stream": 5e-6, "wait": 1e-3}))
    assert machine.host.op("matmul") == 2e-5
    assert machine.host.op("conv") == 5e-6
    assert machine.host.wait == 1e-5


def test_only_the_kernel_for_mps_writes_the_scores_of_attention() -> None:
    assert calibrations.machine(_calibration("mps")).holds_scores
    assert not calibrations.machine(_calibration("cuda")).holds_scores
    assert not calibrations.machine(_calibration("cpu")).holds_scores


def test_a_file_round_trips_and_other_schemas_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(msgspec.json.encode(_calibration()))
    assert calibrations.read(file) == _calibration()
    file.write_bytes(msgspec.json.encode(_calibration(version=0)))
    with pytest.raises(DataError, match="version 0"):
        calibrations.read(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="calibration"):
        calibrations.read(file)


def test_a_size_that_would_take_too_long_is_left_out() -> None:
    slow = [Point("matmul", "float16", 10**6, 0, 1.0, ""), Point("matmul", "float16", 10**8, 0, 1.0, "")]
    assert calibrate._affordable([], 10**12)
    assert calibrate._affordable(slow, 10**8)
    assert not calibrate._affordable(slow, 10**8 + 1)
