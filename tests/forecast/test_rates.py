"""Rates in the units that people compare, against arithmetic by hand."""

from __future__ import annotations

import pytest

from mpsprobe.forecast.build import ForecastOptions, _limits, rates
from mpsprobe.forecast.trace import Trace
from mpsprobe.mac.catalogue import named
from mpsprobe.run import Range, TimePart, Timing
from mpsprobe.run.outlook import Fed


def _part(name: str, seconds: float, repeats: int = 1) -> TimePart:
    return TimePart(
        name=name,
        repeats=repeats,
        seconds=Range(0.0, seconds, seconds / 2, seconds * 2),
        flops=1,
        bytes=1,
        launches=1,
    )


def _timing(*parts: TimePart) -> Timing:
    whole = sum(part.seconds.expected or 0 for part in parts)
    return Timing(
        hardware="x",
        basis="specification",
        parts=list(parts),
        per_sample=Range(0.0, whole, whole / 2, whole * 2),
    )


def test_generation_has_tokens_a_second_and_first_token() -> None:
    found = rates(
        _timing(_part("vision", 1.0), _part("prefill", 2.0), _part("decode", 10.0, 100)),
        Fed(rows=2, tokens=50),
    )
    by_name = {one.name: one for one in found}
    assert by_name["prefill"].expected == pytest.approx(2 * 50 / 2.0)
    assert by_name["decode"].expected == pytest.approx(2 * 100 / 10.0)
    assert by_name["decode"].low == pytest.approx(10.0)  # of the longest time
    assert by_name["decode"].high == pytest.approx(40.0)
    assert by_name["time to first token"].expected == pytest.approx(3.0)


def test_each_task_has_its_own_unit_of_speed() -> None:
    (step,) = rates(_timing(_part("unet step", 30.0, 20)), Fed())
    assert (step.name, step.unit) == ("unet", "s/it")
    assert step.expected == pytest.approx(1.5)
    (speech,) = rates(_timing(_part("forward", 3.0)), Fed(audio_seconds=30.0))
    assert speech.unit == "s/s"
    assert speech.expected == pytest.approx(0.1)
    (items,) = rates(_timing(_part("forward", 0.5)), Fed(rows=32, tokens=128))
    assert items.unit == "items/s"
    assert items.expected == pytest.approx(64.0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m1-max-64", ["m1-max-64 is sold with 24 and 32 GPU cores: the forecast is for 32."]),
        ("m1-max-24c-64", []),
        ("m4-max-36", []),  # sold with 32 cores only
    ],
)
def test_cores_that_a_mac_was_not_named_with(name: str, said: list[str]) -> None:
    texts = _limits(Trace([], []), [], ForecastOptions(mac=named(name)))
    assert [text for text in texts if "GPU cores" in text] == said
