"""Speeds of MLX and llama.cpp against what was published."""

from __future__ import annotations

import statistics

import pytest

from mpsprobe.knowledge import chips, engines
from mpsprobe.knowledge.engines import PublishedRate


def _expected(point: PublishedRate) -> float:
    """Tokens a second that the engine's row gives for a point."""
    chip = chips.find(point.chip)
    assert chip is not None
    of_cores = [one for one in chip.variants if one.gpu_cores == point.gpu_cores] or chip.variants
    bandwidth = max(variant.bandwidth_gbs for variant in of_cores) * 1e9
    engine = engines.engine(point.engine)
    return 1 / engine.seconds_per_token(bandwidth, point.params_b * 1e9, point.bits, mixture=point.mixture)


@pytest.mark.parametrize(("name", "least"), [("MLX", 8), ("llama.cpp", 20)])
def test_held_out_rates_are_met(name: str, least: int) -> None:
    engine = engines.engine(name)
    held = [point for point in engines.points(name) if point.held_out]
    ratios = [point.tokens_per_second / _expected(point) for point in held]
    assert len(held) >= least
    assert statistics.median(max(ratio, 1 / ratio) for ratio in ratios) <= 1.3
    assert sum(engine.low <= ratio <= engine.high for ratio in ratios) >= 0.8 * len(held)


def test_the_published_table_of_llama_cpp_is_met() -> None:
    """Discussion 4167: LLaMA 7B, one build, from an M1 to an M2 Ultra."""
    rows = [point for point in engines.points("llama.cpp") if point.source.endswith("/discussions/4167")]
    assert len({point.chip for point in rows}) >= 10
    assert all(0.8 < point.tokens_per_second / _expected(point) < 1.25 for point in rows)


def test_every_published_rate_names_its_source_and_a_known_chip() -> None:
    for name in ("MLX", "llama.cpp"):
        for point in engines.points(name):
            assert point.source.startswith("https://")
            assert chips.find(point.chip) is not None
            assert point.first is not None or not point.added


def test_fewer_bits_and_more_bandwidth_are_faster() -> None:
    engine = engines.engine("MLX")
    slow = engine.seconds_per_token(1e11, 7e9, 16)
    assert engine.seconds_per_token(1e11, 7e9, 4.5) < slow
    assert engine.seconds_per_token(4e11, 7e9, 16) < slow


def test_a_mixture_reads_its_experts_more_slowly() -> None:
    engine = engines.engine("MLX")
    dense, mixture = (engine.seconds_per_token(4e11, 3e9, 4.5, mixture=flag) for flag in (False, True))
    assert dense < mixture < 2.5 * dense


def test_experts_of_16_bits_are_read_no_more_slowly() -> None:
    engine = engines.engine("llama.cpp")
    dense, mixture = (engine.seconds_per_token(4e11, 3e9, 16, mixture=flag) for flag in (False, True))
    assert mixture == dense
