"""Speed in MLX by quantisation on the target Mac."""

from __future__ import annotations

import pytest

from mpsprobe.routes import alternatives
from mpsprobe.run import Fit, Range, Target, TimePart, Timing
from tests.routes.cases import GIB, case, memory, use


def _part(name: str, flops: int, repeats: int) -> TimePart:
    return TimePart(
        name=name, repeats=repeats, seconds=Range(1.0, 2.0, 1.0, 3.0), flops=flops, bytes=1, launches=1
    )


def _time(*parts: TimePart) -> Timing:
    return Timing(
        hardware="m1-max-32c-64", basis="specification", parts=list(parts), per_sample=Range(1.0, 2.0)
    )


def test_a_decoder_has_tokens_a_second_by_quantisation() -> None:
    target = Target(name="x", profile="transformers", parameters=8 * 10**9, weight_bytes=16 * 10**9)
    made = case(
        [use()],
        target=target,
        held=memory(needed=17 * GIB),
        time=_time(_part("decode", 2 * 8 * 10**9 * 100, 100)),
    )
    four, eight, sixteen = alternatives.speeds(made, "MLX")
    # 8e9 weights of 4.5 bits over 85 % of 409.6 GB/s, and 39 layers of 0.068 ms
    assert four.expected == pytest.approx(1 / (8e9 * 4.5 / 8 / (0.85 * 409.6e9) + 39.3 * 0.068e-3), rel=0.01)
    assert four.expected is not None
    assert four.low is not None
    assert four.high is not None
    assert four.low < four.expected < four.high
    assert eight.expected is not None
    assert sixteen.expected is not None
    assert four.expected > eight.expected > sixteen.expected


def test_what_does_not_fit_has_no_speed() -> None:
    target = Target(name="x", profile="transformers", parameters=200 * 10**9, weight_bytes=400 * 10**9)
    made = case(
        [use()], target=target, held=memory(needed=380 * GIB), time=_time(_part("decode", 10**12, 100))
    )
    assert [(one.fit, one.words) for one in alternatives.speeds(made, "MLX")] == [(Fit.NO, "unknown")] * 3


def test_a_diffusion_has_seconds_an_iteration_by_its_flops() -> None:
    target = Target(name="x", profile="diffusers", parameters=10**9, weight_bytes=2 * 10**9)
    made = case(
        [use()], target=target, held=memory(needed=4 * GIB), time=_time(_part("unet step", 20 * 10**12, 20))
    )
    (first, *_) = alternatives.speeds(made, "MLX")
    assert first.unit == "s/it"
    assert first.expected == pytest.approx(1e12 / (0.8 * 32 * 128 * 2 * 1.296e9), rel=0.01)
