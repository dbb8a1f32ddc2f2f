"""Which Macs hold a target: at its own dtype, and in MLX's bits."""

from __future__ import annotations

import dataclasses

import pytest

from mpsprobe.forecast import ForecastOptions
from mpsprobe.forecast.trace import Trace
from mpsprobe.mac import names
from mpsprobe.prediction.fitting import every_mac, smallest
from mpsprobe.prediction.observed import Observed
from mpsprobe.run import Fit, MacFit

_EIGHT_B = 8_030_000_000
_LARGEST = 1_050_000_000


def _seen(parameters: int = _EIGHT_B, largest: int = _LARGEST) -> Observed:
    """Return a target in bfloat16, with half a GB of activations, of which nothing was called."""
    weights = 2 * parameters
    storages = [largest, *[200_000_000] * ((weights - largest) // 200_000_000)]
    return Observed(
        uses=[],
        findings=[],
        assumptions=[],
        host_events=[],
        architecture="",
        parameters=parameters,
        weight_bytes=weights,
        dtypes={"bfloat16": parameters},
        inputs=[],
        doing="",
        trace=Trace([], [], weights=weights, storages=storages, inputs=10, peak=weights + 500_000_000),
    )


def _macs(seen: Observed, *, mlx: bool = True) -> dict[str, MacFit]:
    return {one.mac: one for one in every_mac(seen, "2.8.0", "15.5", ForecastOptions(), mlx=mlx)}


def test_an_8b_model_in_16_bits_by_memory() -> None:
    found = _macs(_seen())
    assert list(found) == list(names())
    assert found["m1-8c-16"].fit is Fit.NO
    assert found["m4-pro-20c-24"].fit is Fit.TIGHT
    assert found["m1-max-32c-32"].fit is Fit.COMFORTABLE
    assert found["m4-max-40c-128"].fit is Fit.COMFORTABLE
    for one in found.values():
        assert (one.seconds is None) == (one.fit is Fit.NO) or not one.rates
        assert one.needed_bytes is not None
        if one.fit is Fit.COMFORTABLE:
            assert one.needed_bytes <= 0.9 * one.working_set_bytes


def test_the_smallest_fits_and_none_smaller_does() -> None:
    found = _macs(_seen())
    chosen = found[smallest(list(found.values()))]
    assert chosen.fit is Fit.COMFORTABLE
    assert not [
        one.mac for one in found.values() if one.memory_gib < chosen.memory_gib and one.fit is Fit.COMFORTABLE
    ]
    assert not chosen.chip.endswith(("Pro", "Max", "Ultra"))  # one of a lower class has that memory
    assert smallest([]) == ""


@pytest.mark.parametrize(("billions", "bits"), [(8, "8-bit"), (14, "4-bit"), (32, "")])
def test_the_most_bits_that_fit_a_16_gb_air(billions: int, bits: str) -> None:
    assert _macs(_seen(billions * 10**9))["m4-10c-16"].quantised == bits


def test_unheld_quantised_weights_get_no_number() -> None:
    assert not any(one.quantised for one in _macs(_seen(), mlx=False).values())


def test_one_large_tensor_asks_for_a_larger_mac() -> None:
    """Metal's maxBufferLength is three quarters of its recommended working set."""
    seen = _seen()
    whole = dataclasses.replace(
        seen.trace, storages=[13_000_000_000], weights=13_000_000_000, peak=13_100_000_000
    )
    found = _macs(dataclasses.replace(seen, trace=whole, weight_bytes=13_000_000_000))
    assert found["m4-10c-24"].fit is Fit.NO
    assert found["m4-10c-32"].fit is not Fit.NO
