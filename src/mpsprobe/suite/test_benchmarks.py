"""Benchmarks of the target, by pytest-benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpsprobe.phases.benchmark import CHECKS, SUBJECTS, Steps, Timed, rounds
from mpsprobe.phases.check import CheckSpec
from mpsprobe.phases.inference import Inferred
from mpsprobe.suite.checks_of import Judge, checks_of

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from mpsprobe.phases.site import Availability


@checks_of(CHECKS)
def test_benchmark(
    check: CheckSpec[Timed],
    mps_site: Availability,
    mps_prediction: Inferred,
    benchmark: BenchmarkFixture,
    mps_judge: Judge,
) -> None:
    """Time one subject on the device of the run (no rounds where that means nothing), and judge the timings."""
    call, one_s = SUBJECTS[check.name](mps_prediction)
    device = mps_prediction.loaded.device
    host = mps_site.host
    benchmark.extra_info.update(
        device=device.name,
        evidence=device.evidence.value,
        gpu=device.gpu,
        chip=host.chip,
        system=f"{host.system} {host.os_version}",
        torch=host.packages.get("torch"),
        dtype=mps_prediction.loaded.profile.dtype,
    )
    count = rounds(device, one_s)
    found = None
    if count:
        found = benchmark.pedantic(call, rounds=count, warmup_rounds=0)
        seconds = list(benchmark.stats.stats.data) if benchmark.stats else []
    else:
        # pytest-benchmark rejects a fixture that was not used; when disabled, it adds no row to its table.
        benchmark.disabled = True
        benchmark.pedantic(lambda: None)
        seconds = []
    mps_judge(check, Timed(mps_prediction, seconds, found if isinstance(found, Steps) else None))
