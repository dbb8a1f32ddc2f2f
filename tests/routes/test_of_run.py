"""The outlook of a run that took place."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from mpsprobe.routes.recommend import of_run
from mpsprobe.run import (
    Check,
    Evidence,
    Fit,
    Host,
    Measurement,
    MeasurementKey,
    OpVerdict,
    Phase,
    Run,
    Status,
    Viability,
)
from tests.routes.cases import ALPAMAYO_BYTES, GIB, case, use

MAC = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M1 Max", memory_bytes=64 * GIB)
WORK = [use(count=10, flops=10**12, bytes=10**9)]


def measured(quantity: MeasurementKey, value: float, unit: str, device: str = "mps") -> Check:
    return Check(
        id=f"inference.{quantity.value}",
        phase=Phase.INFERENCE,
        title=quantity.label,
        status=Status.PASS,
        evidence=Evidence.MEASURED,
        device=device,
        measurements=[Measurement.of(quantity, value, unit, Evidence.MEASURED, device)],
    )


def ran(*checks: Check, weight_bytes: int | None = ALPAMAYO_BYTES, device: str = "mps") -> Run:
    uses = [msgspec.structs.replace(one, evidence=Evidence.MEASURED) for one in WORK]
    return case(uses, checks=checks, device=device, host=MAC, weight_bytes=weight_bytes).run


def test_without_op_uses_or_a_mac_there_is_none() -> None:
    run = ran()
    assert of_run(msgspec.structs.replace(run, op_uses=[])) is None
    assert of_run(msgspec.structs.replace(run, mac=None)) is None


def test_measured_memory_and_time_take_the_place_of_forecasts() -> None:
    peak = measured(MeasurementKey.PEAK_MEMORY, 24 * GIB, "bytes")
    took = measured(MeasurementKey.TIME_PER_SAMPLE, 42.0, "s")
    found = of_run(ran(peak, took))
    assert found is not None
    assert found.forecast is not None
    assert found.forecast.memory is not None
    assert found.forecast.memory.fit is Fit.COMFORTABLE
    mps = found.routes[0]
    assert mps.viability is Viability.YES
    assert any("42.0 s, measured" in reason for reason in mps.reasons)
    assert found.recommendation is not None
    assert found.recommendation.route == "mps"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_another_device_took_says_nothing_of_the_mac(device: str) -> None:
    peak = measured(MeasurementKey.PEAK_MEMORY, 24 * GIB, "bytes", device)
    found = of_run(ran(peak, device=device))
    assert found is not None
    assert found.forecast is not None
    assert found.forecast.memory is not None
    assert found.forecast.memory.fit is Fit.UNKNOWN
    assert found.routes[0].viability is Viability.UNKNOWN


def test_weights_that_are_larger_than_the_mac_do_not_fit() -> None:
    found = of_run(ran(weight_bytes=100 * GIB))
    assert found is not None
    assert found.routes[0].viability is Viability.NO


def test_the_roofline_of_the_uses_is_the_floor_of_the_time() -> None:
    found = of_run(ran())
    assert found is not None
    assert found.forecast is not None
    assert found.forecast.time is not None
    assert found.forecast.time.per_sample is not None
    # 32 cores of 128 ALUs at 1.296 GHz do 10.6 TFLOP/s: that is longer than 1 GB takes at 409.6 GB/s
    assert found.forecast.time.per_sample.floor == pytest.approx(1e12 / (32 * 128 * 2 * 1.296e9), rel=1e-6)


def test_judging_needs_neither_torch_nor_mlx() -> None:
    code = (
        "import sys, pkgutil, importlib, mpsprobe.routes\n"
        "for module in pkgutil.walk_packages(mpsprobe.routes.__path__, 'mpsprobe.routes.'):\n"
        "    importlib.import_module(module.name)\n"
        "sys.exit(bool({'torch', 'mlx', 'mlx_lm', 'mlx_vlm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_op_is_one_obstacle_not_two() -> None:
    """tiny-drive on torch 2.8: phase 6 fails by the op that the table of op uses names too."""
    op = "aten::_cholesky_solve_helper"
    failed = Check(
        id="inference.runs",
        phase=Phase.INFERENCE,
        title="runs",
        status=Status.FAIL,
        evidence=Evidence.EMULATED,
        device="emulated",
        message=f"NotImplementedError: The operator '{op}' is not currently implemented for the MPS device.",
        remedy="Install torch 2.12 or newer.",
    )
    uses = [*WORK, use(op, verdict=OpVerdict.RAISES)]
    run = case(uses, checks=(failed,), device="emulated", host=MAC, weight_bytes=ALPAMAYO_BYTES).run
    found = of_run(run)
    assert found is not None
    assert "after 1 change" in found.routes[0].sentence
