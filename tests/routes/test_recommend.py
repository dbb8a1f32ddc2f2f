"""What is recommended, and that it is never better than what it rests on."""

from __future__ import annotations

import pytest

from mpsprobe.routes.case import Case, OnRelease
from mpsprobe.routes.recommend import outlook
from mpsprobe.run import (
    Evidence,
    Fit,
    Host,
    MemoryRemedy,
    OpVerdict,
    Range,
    Recommendation,
    RemedyKind,
    TimePart,
    Viability,
)
from tests.routes.cases import GIB, case, memory, timing, use

FALLBACK = [use(count=99), use("aten::nonzero", OpVerdict.FALLBACK)]
H100 = [timing("H100 SXM5", 0.5, 1.0)]
MINE = "mylib/model.py:3"


def advice(made: Case) -> Recommendation:
    found = outlook(made).recommendation
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("share", "route"),
    [(0.95, "mps"), (0.9, "hybrid"), (0.7, "hybrid"), (0.69, "mlx"), (0.1, "mlx")],
)
def test_the_share_of_op_time_decides(share: float, route: str) -> None:
    made = case(FALLBACK, time=timing("M1 Max", 1.0, 2.0, share=share), elsewhere=H100)
    assert advice(made).route == route


def test_below_the_threshold_without_mlx_it_is_the_cloud() -> None:
    uses = [use(count=99, source=MINE), use("aten::nonzero", OpVerdict.FALLBACK, source=MINE)]
    made = case(uses, time=timing("M1 Max", 1.0, 2.0, share=0.5), elsewhere=H100)
    assert advice(made).route == "cloud"


def test_memory_comes_before_the_share() -> None:
    eight = MemoryRemedy(RemedyKind.MLX, "MLX with 8-bit weights: 50 GiB in all, tight.", Fit.TIGHT)
    four = MemoryRemedy(
        RemedyKind.MLX, "MLX with 4-bit weights: 25 GiB in all, fits easily.", Fit.COMFORTABLE
    )
    held = memory(Fit.NO, needed=100 * GIB, remedies=[eight, four])
    found = advice(case([use()], held=held, elsewhere=H100))
    assert found.route == "mlx"
    assert "4-bit" in found.sentence
    held = memory(Fit.NO, needed=100 * GIB, remedies=[eight])
    assert "8-bit" in advice(case([use()], held=held, elsewhere=H100)).sentence
    ported = case([use(source=MINE)], held=memory(Fit.NO, needed=70 * GIB), elsewhere=H100)
    assert advice(ported).route == "cloud"


def test_what_fits_in_no_number_of_bits_is_not_sent_to_mlx() -> None:
    # DeepSeek-V3 in 8 bits on a Mac with 512 GB was recommended, and did not fit
    larger = MemoryRemedy(RemedyKind.LARGER_MAC, "A Mac with 512 GB of memory: fits easily.", Fit.COMFORTABLE)
    eight = MemoryRemedy(RemedyKind.MLX, "MLX with 8-bit weights: 713 GB in all, does not fit.", Fit.NO)
    made = case([use()], held=memory(Fit.NO, needed=1000 * GIB, remedies=[eight, larger]), elsewhere=H100)
    found = advice(made)
    assert found.route == ""
    assert "512 GB" in found.sentence
    routes = {one.name: one for one in outlook(made).routes}
    assert routes["mps"].viability is Viability.NO


def test_a_narrower_dtype_comes_before_another_library() -> None:
    # gpt-oss in float32 on 64 GB was sent to MLX, though bfloat16 fits with PyTorch
    narrow = MemoryRemedy(
        RemedyKind.PYTORCH, "Weights in bfloat16: 40 GB in all, fits easily.", Fit.COMFORTABLE
    )
    four = MemoryRemedy(RemedyKind.MLX, "MLX with 4-bit weights: 20 GB in all, fits easily.", Fit.COMFORTABLE)
    found = advice(case([use()], held=memory(Fit.NO, needed=80 * GIB, remedies=[narrow, four])))
    assert found.route == "mps"
    assert "bfloat16" in found.sentence


def test_what_no_gpu_holds_gets_no_route() -> None:
    made = case([use(source=MINE)], held=memory(Fit.NO, needed=1000 * GIB), elsewhere=H100)
    assert advice(made).route == ""


def test_unknown_stays_unknown() -> None:
    assert advice(case([])).route == ""
    assert advice(case([use()], known=False)).route == ""
    unknown = case([use(), use("mylib::op", OpVerdict.UNKNOWN)])
    assert advice(unknown).route == ""


def test_a_missing_op_is_named_with_its_remedy() -> None:
    uses = [use(count=99), use("aten::_cholesky_solve_helper", OpVerdict.RAISES)]
    found = advice(case(uses, time=timing("M1 Max", 1.0, 2.0, share=0.99)))
    assert found.route == "mps"
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in found.sentence


def test_slow_samples_send_the_plan_to_a_rented_gpu() -> None:
    slow = case([use()], time=timing("M1 Max", 100.0, 400.0, share=1.0), elsewhere=H100)
    assert advice(slow).route == "hybrid"
    quick = case([use()], time=timing("M1 Max", 1.0, 16.0, share=1.0), elsewhere=H100)
    assert advice(quick).route == "mps"


@pytest.mark.parametrize("evidence", list(Evidence))
def test_no_part_is_better_known_than_the_op_uses(evidence: Evidence) -> None:
    found = outlook(case([use(evidence=evidence)], known=False))
    assert found.recommendation is not None
    levels = [found.recommendation.evidence, *(route.evidence for route in found.routes)]
    assert all(list(Evidence).index(level) <= list(Evidence).index(evidence) for level in levels)


def test_a_prediction_says_that_nothing_was_run() -> None:
    assert "nothing was run" in advice(case([use()])).sentence
    assert any("`mpsprobe run`" in text for text in advice(case([use()])).would_change)


def test_the_matrix_holds_every_route_and_no_invented_cell() -> None:
    grid = advice(case([use()], known=False, weight_bytes=None)).matrix
    assert grid is not None
    assert grid.columns[1:] == ["MPS", "hybrid", "MLX", "cloud GPU"]
    assert [row[0] for row in grid.rows] == [
        "setup time",
        "code changes",
        "iteration speed",
        "cost",
        "the plan takes: 600 inferences",
        "risk",
    ]
    told = {row[0]: row for row in grid.rows}
    assert told["iteration speed"][1:] == ["unknown"] * 4
    assert told["setup time"][1] == "unknown"


def test_the_timeline_adds_up() -> None:
    made = case([use()], weight_bytes=22_200_000_000, time=timing("M1 Max", 1.0, 20.0, share=1.0))
    grid = advice(made).timeline
    assert grid is not None
    # 22 GB: the progress report has 20 to 30 minutes, and 2 to 3
    assert [row[1] for row in grid.rows] == ["25 min", "2 min 30 s", "20.0 s", "28 min"]


def test_the_timeline_takes_what_was_forecast() -> None:
    time = timing("M1 Max", 1.0, 20.0, share=1.0)
    time.parts.append(TimePart(name="download", seconds=Range(10.0, 60.0, 30.0, 90.0)))
    grid = advice(case([use()], weight_bytes=14_800_000_000, time=time)).timeline
    assert grid is not None
    assert grid.rows[0] == ["Model download", "1 min", "forecast, 30.0 s to 1 min 30 s"]
    assert [row[1] for row in grid.rows[1:]] == ["1 min 40 s", "20.0 s", "3 min"]


def test_releases_name_the_first_that_is_fully_native() -> None:
    rows = [
        OnRelease("2.8", {"native": 9, "raises": 1}, {"raises": ["aten::x"]}, False),
        OnRelease("2.9", {"native": 10}, {}, True),
        OnRelease("2.10", {"native": 9, "wrong": 1}, {"wrong": ["aten::y"]}, False),
        OnRelease("2.11", {"native": 10}, {}, True),
        OnRelease("2.12", {"native": 10}, {}, True),
    ]
    found = advice(case([use()], releases=rows))
    assert found.releases is not None
    verdicts = {row[0]: row[-1] for row in found.releases.rows}
    assert verdicts == {
        "2.8": "raises",
        "2.9": "fully native",
        "2.10": "known wrong for this target",
        "2.11": "fully native, the first of those that are",
        "2.12": "fully native",
    }
    assert any("torch 2.11" in text for text in found.would_change)


def test_an_outlook_can_be_drawn_for_a_mac_without_a_name() -> None:
    host = Host(system="Darwin", machine="arm64", os_version="15.5", chip="Apple M1 Max")
    assert {route.viability for route in outlook(case([use()], host=host)).routes} >= {Viability.YES}


def test_the_faster_library_stands_beside_mps() -> None:
    parts = [TimePart(name="decode", seconds=Range(1.0, 2.0, 1.0, 3.0), repeats=100, flops=10**12)]
    time = timing("m1-max-32c-64", 1.0, 2.0, share=1.0)
    time.parts = parts
    made = case([use()], time=time, architecture="llama")
    made.run.target.parameters = 8_000_000_000
    found = advice(made)
    assert found.route == "mps"
    assert any("MLX" in text and "tokens/s" in text for text in found.reasons)
    assert any("MLX" in text and "tokens/s" in text for text in found.would_change)


def test_the_workload_stands_beside_its_time() -> None:
    made = case([use()], time=timing("M1 Max", 1.0, 2.0, share=1.0), elsewhere=H100)
    assert made.forecast is not None
    made.forecast.workload = "a prompt of 32 tokens, 128 new tokens, batch 1 (defaults; --batch changes it)"
    found = advice(made)
    assert any("for a prompt of 32 tokens, 128 new tokens, batch 1." in one for one in found.reasons)
    assert any("128 new tokens" in one for one in found.would_change if "finishes sooner" in one)


def test_wrong_values_are_no_stop_and_the_hybrid_rents() -> None:
    uses = [use(count=99), use("aten::_cholesky_solve_helper", OpVerdict.RAISES)]
    wrong = use(verdict=OpVerdict.WRONG, advisories=["sdpa-decode-half-long-keys"])
    made = case([*uses, wrong], time=timing("M1 Max", 1.0, 2.0, share=0.99), elsewhere=H100)
    grid = advice(made).matrix
    assert grid is not None
    rows = {str(row[0]).partition(":")[0]: row for row in grid.rows}
    assert rows["risk"][1] == "1 thing that will stop it, 1 fault with wrong values"
    assert "copies" in str(rows["iteration speed"][2])
    assert "rented GPU" in str(rows["the plan takes"][2])
