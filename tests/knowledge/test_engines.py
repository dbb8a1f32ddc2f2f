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
    kind = {"mixture": point.mixture, "hybrid": point.hybrid}
    return 1 / engine.seconds_per_token(point.chip, bandwidth, point.params_b * 1e9, point.bits, **kind)


@pytest.mark.parametrize(("name", "least"), [("MLX", 25), ("llama.cpp", 60)])
def test_held_out_rates_are_met(name: str, least: int) -> None:
    engine = engines.engine(name)
    held = [point for point in engines.points(name) if point.held_out]
    ratios = [point.tokens_per_second / _expected(point) for point in held]
    assert len(held) >= least
    assert statistics.median(max(ratio, 1 / ratio) for ratio in ratios) <= 1.3
    ranges = [engine.range(mixture=point.mixture) for point in held]
    inside = sum(low <= ratio <= high for ratio, (low, high) in zip(ratios, ranges, strict=True))
    assert inside >= 0.8 * len(held)


def test_the_published_table_of_llama_cpp_is_met() -> None:
    """Discussion 4167: LLaMA 7B, one build, from an M1 to an M2 Ultra."""
    rows = [point for point in engines.points("llama.cpp") if point.source.endswith("/discussions/4167")]
    assert len({point.chip for point in rows}) >= 10
    assert all(0.8 < point.tokens_per_second / _expected(point) < 1.25 for point in rows)


def test_every_published_rate_names_its_source_and_a_known_chip() -> None:
    for name in ("MLX", "llama.cpp"):
        for point in engines.points(name):
            assert point.source.startswith(("https://", "find_string id "))
            assert chips.find(point.chip) is not None
            assert point.first is not None or not point.added


def test_fewer_bits_and_more_bandwidth_are_faster() -> None:
    engine = engines.engine("MLX")
    slow = engine.seconds_per_token("Apple M4", 1e11, 7e9, 16)
    assert engine.seconds_per_token("Apple M4", 1e11, 7e9, 4.5) < slow
    assert engine.seconds_per_token("Apple M4", 4e11, 7e9, 16) < slow


def test_a_mixture_reads_its_experts_more_slowly() -> None:
    engine = engines.engine("MLX")

    def seconds(bits: float, mixture: bool) -> float:
        return engine.seconds_per_token("Apple M5 Max", 6e11, 12e9, bits, mixture=mixture)

    # the layers of both cost about the same at this size, so that reading makes the difference
    assert seconds(4.5, False) < seconds(4.5, True) < 2.5 * seconds(4.5, False)
    assert seconds(16, True) == pytest.approx(seconds(16, False), rel=0.1)


def test_a_small_mixture_gains_nothing_from_fewer_bits() -> None:
    """A Qwen3-Coder-30B-A3B on an M2 Ultra: 76.0 tokens/s at 4.85 bits, 75.3 at 6.56, 78.97 at 8.5."""
    engine = engines.engine("llama.cpp")
    few, many = (
        engine.seconds_per_token("Apple M2 Ultra", 8e11, 3.3e9, b, mixture=True) for b in (4.85, 8.5)
    )
    assert many < 1.4 * few < 1.4 * 8.5 / 4.85 * few


def test_faster_chips_and_plain_layers_cost_less() -> None:
    engine = engines.engine("llama.cpp")
    plain = engine.seconds_per_token("Apple M5 Max", 4e11, 3e9, 4.5)
    assert plain < engine.seconds_per_token("Apple M1 Max", 4e11, 3e9, 4.5)
    assert plain < engine.seconds_per_token("Apple M5 Max", 4e11, 3e9, 4.5, hybrid=True)


def test_matrix_units_surpass_the_peak_of_the_alus() -> None:
    """Z-Image Turbo, 6e9 parameters, 2304 + 128 tokens: 4.5 s for 4 steps on an M5 Max; Mistral 7B: 608 tokens/s."""
    m5_max, m5 = 40 * 128 * 2 * 1.62e9, 10 * 128 * 2 * 1.62e9
    step = 2 * 6e9 * (2304 + 128) + 30 * 4 * 2432**2 * 3840
    assert step / engines.engine("MLX").compute("Apple M5 Max", m5_max) == pytest.approx(4.5 / 4, rel=0.15)
    prompt = engines.engine("llama.cpp").compute("Apple M5", m5) / (2 * 7.24e9)
    assert prompt == pytest.approx(608, rel=0.15)
    assert engines.engine("MLX").compute("Apple M4 Max", 1e13) < 1e13
