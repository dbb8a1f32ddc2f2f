"""Speeds of MLX and llama.cpp against what was published."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge import chips, engines


@pytest.mark.parametrize("name", ["MLX", "llama.cpp"])
def test_four_in_five_published_rates_lie_in_the_range(name: str) -> None:
    engine = engines.engine(name)
    inside = []
    for point in engines.points(name):
        chip = chips.find(point.chip)
        assert chip is not None
        bandwidth = max(variant.bandwidth_gbs for variant in chip.variants) * 1e9
        rate = 1 / engine.seconds_per_token(bandwidth, point.params_b * 1e9, point.bits)
        inside.append(engine.low * rate <= point.tokens_per_second <= engine.high * rate)
    assert len(inside) >= 9
    assert sum(inside) >= 0.8 * len(inside)


def test_every_published_rate_names_its_source() -> None:
    assert all(
        point.source.startswith("https://") for name in ("MLX", "llama.cpp") for point in engines.points(name)
    )


def test_fewer_bits_and_more_bandwidth_are_faster() -> None:
    engine = engines.engine("MLX")
    slow = engine.seconds_per_token(1e11, 7e9, 16)
    assert engine.seconds_per_token(1e11, 7e9, 4.5) < slow
    assert engine.seconds_per_token(4e11, 7e9, 16) < slow
