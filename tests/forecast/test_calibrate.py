"""Calibration: what it counts as dispatch, and its file."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
import torch

from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.errors import DataError
from mpsprobe.forecast import calibration as calibrations
from mpsprobe.forecast.calibration import Calibration, Point
from mpsprobe.forecast.dispatch import Block, block_inputs
from mpsprobe.forecast.kinds import kind_of
from mpsprobe.trace.recorder import Recorder


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
            "op_seconds": 1e-5,
            "view_seconds": 1e-6,
            "loop_seconds": 0.0,
            "kernel_seconds": 2e-6,
            "wait_seconds": 1e-5,
            "copy_bandwidth": 1e10,
            "took_seconds": 1.0,
            **more,
        },
        Calibration,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the predicting device runs on Linux")
def test_the_block_makes_the_calls_that_it_says() -> None:
    from mpsprobe.device.virtual.predict import predict

    recorder, observer = Recorder(), Quiet()
    with predict(memory_gb=64, observer=observer), torch.inference_mode():
        device = torch.device("mps", 0)
        block, inputs = Block().to(device), block_inputs(device)
        observer.op = recorder.op  # type: ignore[method-assign]
        block(*inputs)
        del observer.op
    counted: dict[str, int] = {}
    for use in recorder.op_uses():
        counted[kind_of(use.op)] = counted.get(kind_of(use.op), 0) + use.count
    assert counted == dict(Block.CALLS)


def test_dispatch_is_by_kind_where_it_was_measured_so() -> None:
    machine = calibrations.machine(_calibration(op_seconds_by_kind={"matmul": 2e-5, "stream": 5e-6}))
    assert machine.dispatch("matmul").expected == 2e-5
    assert machine.dispatch("stream").expected == 5e-6
    assert machine.dispatch("conv").expected == 1e-5
    assert machine.dispatch("view").expected == 1e-6
    assert calibrations.machine(_calibration()).dispatch("matmul").expected == 1e-5


def test_only_the_kernel_for_mps_writes_the_scores_of_attention() -> None:
    assert calibrations.machine(_calibration("mps")).holds_scores
    assert not calibrations.machine(_calibration("cuda")).holds_scores
    assert not calibrations.machine(_calibration("cpu")).holds_scores


def test_a_file_comes_back_as_it_was_and_another_form_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(msgspec.json.encode(_calibration()))
    assert calibrations.read(file) == _calibration()
    file.write_bytes(msgspec.json.encode(_calibration(version=0)))
    with pytest.raises(DataError, match="version 0"):
        calibrations.read(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="calibration"):
        calibrations.read(file)
