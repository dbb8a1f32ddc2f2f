"""Calibration: what it counts as dispatch, and its file."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from mpsprobe.device.real import real_device
from mpsprobe.errors import DataError, TargetError
from mpsprobe.forecast import calibrate
from mpsprobe.forecast import calibration as calibrations
from mpsprobe.forecast.calibration import Calibration, Point
from mpsprobe.forecast.clock import MOST_ROUNDS, TimedRounds, factors, remark
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
    file.write_bytes(msgspec.json.encode(_calibration(version=2)))
    assert calibrations.read(file).unsteady == 1.0  # a file of the release before says nothing of it
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


def test_a_host_that_drifts_is_noticed_and_the_range_is_wider() -> None:
    """Five rounds of three models, from the third on 1.6 times slower, as another guest would make them."""
    now = [1.0]

    def work(cost: float) -> Callable[[], float]:
        return lambda: cost * now[0]

    rounds = TimedRounds({"a": work(1.0), "b": work(5.0), "c": work(0.1)})
    for now[0] in (1.0, 1.0, 1.6, 1.6, 1.6):
        rounds.once()
    assert factors(rounds.taken) == pytest.approx([1.0, 1.0, 1.6, 1.6, 1.6])
    assert rounds.unsteady() == pytest.approx(1.6)
    assert rounds.typical() == pytest.approx({"a": 1.0, "b": 5.0, "c": 0.1})
    assert "1.6 times" in remark(rounds.unsteady())
    still, drifting = (calibrations.machine(_calibration(unsteady=u)) for u in (1.05, 1.65))
    assert (still.slack, still.notes) == (1.0, [])
    assert drifting.slack == pytest.approx(1.5)
    assert drifting.notes == [remark(1.65)]


def test_a_host_slower_than_calibrated_before_is_unsteady() -> None:
    """A whole calibration on a slow host has rounds that agree: only an earlier one shows it."""
    fast = _calibration(unsteady=1.02)
    slow = msgspec.structs.replace(
        fast, host_seconds={kind: 1.5 * cost for kind, cost in fast.host_seconds.items()}
    )
    assert calibrations.beside(slow, fast).unsteady == pytest.approx(1.5)
    # the other way round the slow one was disturbed, and calibrating again is what its remark advised
    assert calibrations.beside(fast, slow) == fast
    assert calibrations.beside(slow, None) == slow
    assert calibrations.beside(slow, msgspec.structs.replace(fast, torch="2.0")) == slow


def test_a_gpu_is_slower_within_a_model_than_at_its_best() -> None:
    """A ninth, the median of models bound by an H200 in six calibrations; no peak and so no floor moves."""
    gpu, cpu = (calibrations.machine(_calibration(device)) for device in ("cuda", "cpu"))
    ratio = (cpu.rate("matmul", "float32", 2e9, 1e7) or 0.0) / (
        gpu.rate("matmul", "float32", 2e9, 1e7) or 1.0
    )
    assert ratio == pytest.approx(cpu.stream.at(1e8) / gpu.stream.at(1e8)) == pytest.approx(1.11)
    assert (gpu.peak, gpu.bandwidth) == (cpu.peak, cpu.bandwidth)


def test_one_disturbed_round_of_five_is_no_drift() -> None:
    rounds = TimedRounds({"a": lambda: 1.0}, [[1.0], [1.02], [3.0], [1.01], [1.0]])
    assert rounds.unsteady() == pytest.approx(1.02)
    assert not remark(rounds.unsteady())


def test_rounds_are_repeated_until_three_agree() -> None:
    times = iter([1.0, 2.0, 1.5, 1.05, 1.02, 9.0])
    rounds = TimedRounds({"a": lambda: next(times)})
    rounds.once()
    rounds.until_still()
    assert [round(one[0], 2) for one in rounds.taken] == [1.0, 2.0, 1.5, 1.05, 1.02]
    jumps = iter(range(1, 100))
    never = TimedRounds({"a": lambda: float(next(jumps))})
    never.until_still()
    assert len(never.taken) == MOST_ROUNDS


def test_a_gpu_that_is_never_still_is_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device at hand is a CPU that calls itself a GPU; no size is measured, only the rounds."""
    host = SimpleNamespace(rounds=TimedRounds({"a": lambda: 1.0}, [[1.0], [2.5], [2.5], [1.0], [1.0]]))
    monkeypatch.setattr(calibrate, "HostRounds", lambda *_: host)
    monkeypatch.setattr(calibrate, "_dtypes", lambda *_: [])
    for name in ("_passes", "_group_norms"):
        monkeypatch.setattr(calibrate, name, lambda *_: [])
    for name in ("kernel", "wait", "bare"):
        monkeypatch.setattr(calibrate, name, lambda *_: 1e-5)
    device = real_device("cpu")
    monkeypatch.setattr(type(device), "name", "cuda")
    monkeypatch.setattr(calibrate, "_pulse", lambda *_: TimedRounds({}))
    with pytest.raises(TargetError, match=r"2\.5 times"):
        calibrate.calibrate(device)
