"""Rented GPUs, against the owner's own arithmetic."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.knowledge import cloud_prices as prices
from mpsprobe.knowledge import speed
from mpsprobe.models import profile
from mpsprobe.routes import cloud
from mpsprobe.routes.case import Case
from mpsprobe.run import Fit, Target, Viability
from tests.routes.cases import GIB, case, memory, timing, use

H100 = "H100 (Lambda Labs)"


def quoted(made: Case) -> dict[str, cloud.Quote]:
    return {quote.offer.name: quote for quote in cloud.quotes(made)}


def test_shipped_offers_have_price_date_and_known_gpu() -> None:
    offers = prices.shipped().offers
    assert len(offers) >= 6
    for one in offers:
        assert one.source
        assert one.months_old(datetime.date(2026, 12, 1)) is not None
        assert speed.find_gpu(one.hardware) is not None
    assert prices.shipped().plan is None


def test_the_plan_is_the_users_own_and_one_workload_by_default() -> None:
    shipped = prices.shipped()
    assert case([use()], cloud=shipped).plan.inferences == 1
    asked = Target(name="x", profile="transformers", samples=40)
    assert case([use()], cloud=shipped, target=asked).plan.inferences == 40
    alpamayo = profile.load("alpamayo-r1")
    seeds = Target(
        name="x", profile="alpamayo-r1", samples=alpamayo.samples, perturbations=alpamayo.perturbations
    )
    assert case([use()], cloud=shipped, target=seeds).plan.inferences == 600


def test_old_prices_are_warned_of_and_boot_and_packages_count() -> None:
    made = case([use()], weight_bytes=74 * 10**6, elsewhere=[timing("H100 SXM5", 0.1, 1.0)])
    found = cloud.route(made, cloud.quotes(made))
    assert any("months old" in reason for reason in found.reasons)
    shipped = case(
        [use()], weight_bytes=74 * 10**6, cloud=prices.shipped(), elsewhere=[timing("H100 SXM5", 0.1, 1.0)]
    )
    quote = next(one for one in cloud.quotes(shipped) if one.offer.hardware == "H100 SXM5")
    # boot, packages, one second of transfer
    assert quote.start == pytest.approx(60 * (quote.offer.setup_min + quote.offer.install_min) + 1)


def test_loading_costs_what_the_options_analysis_says() -> None:
    # it has 5 minutes at the H100's price: 21 cents
    quote = quoted(case([use()], elsewhere=[timing("H100 SXM5", 0.1, 1e-9)]))[H100]
    assert quote.start == pytest.approx(5 * 60 + 5 * 60, rel=0.01)  # its setup, then the weights
    assert quote.cost == pytest.approx(0.21, abs=0.005)


def test_the_plan_is_samples_and_perturbations() -> None:
    quote = quoted(case([use()], weight_bytes=74 * 10**9, elsewhere=[timing("H100 SXM5", 1.0, 30.0)]))[H100]
    assert quote.hours == pytest.approx((5 * 60 + 1000 + 600 * 30) / 3600)
    assert quote.cost == pytest.approx((1000 + 600 * 30) / 3600 * 2.49)  # setting up is not rented
    assert quote.one_sample == pytest.approx(30 / 3600 * 2.49)


def test_break_even_is_the_first_number_that_finishes_sooner() -> None:
    made = case([use()], time=timing("M1 Max", 1.0, 60.0), elsewhere=[timing("H100 SXM5", 1.0, 20.0)])
    quote = quoted(made)[H100]
    assert quote.break_even is not None
    assert quote.start is not None

    def sooner(count: int) -> bool:
        return quote.start + count * 20.0 < count * 60.0  # type: ignore[operator]

    assert sooner(quote.break_even)
    assert not sooner(quote.break_even - 1)


def test_a_gpu_that_is_slower_than_the_mac_never_breaks_even() -> None:
    made = case([use()], time=timing("M1 Max", 1.0, 5.0), elsewhere=[timing("H100 SXM5", 1.0, 20.0)])
    assert quoted(made)[H100].break_even is None


@pytest.mark.parametrize(
    ("needed", "fit"), [(15 * GIB, Fit.TIGHT), (14 * GIB, Fit.COMFORTABLE), (17 * GIB, Fit.NO)]
)
def test_the_memory_of_a_gpu_must_hold_the_target(needed: int, fit: Fit) -> None:
    made = case([use()], held=memory(needed=needed))
    assert quoted(made)["V100 (AWS p3.2xlarge)"].fit is fit


def test_the_target_does_not_go_to_a_v100() -> None:
    made = case([use()], known=False)  # the weights alone are too much
    assert quoted(made)["V100 (AWS p3.2xlarge)"].fit is Fit.NO
    assert quoted(made)[H100].fit is Fit.COMFORTABLE


def test_nothing_is_said_of_memory_that_is_not_known() -> None:
    made = case([use()], weight_bytes=None, known=False)
    assert {quote.fit for quote in cloud.quotes(made)} == {Fit.UNKNOWN}
    assert cloud.route(made, cloud.quotes(made)).viability is Viability.UNKNOWN


def test_a_floor_is_never_shown_as_an_expectation() -> None:
    made = case([use()], elsewhere=[timing("H100 SXM5", 0.5)])
    quote = quoted(made)[H100]
    assert quote.least
    assert quote.per_sample == 0.5
    found = cloud.route(made, [quote])
    assert "at least" in found.sentence
    row = next(iter(found.tables.values())).rows[0]
    assert row[4] == "at least 500 ms"


def test_without_a_forecast_there_is_no_price() -> None:
    found = cloud.route(case([use()]), cloud.quotes(case([use()])))
    assert "$" not in found.sentence
    assert "not forecast" in found.sentence


def test_a_subscription_costs_started_months() -> None:
    made = case([use()], elsewhere=[timing("A100 SXM4 40GB", 1.0, 30.0)])
    assert quoted(made)["A100 (Colab Pro+)"].cost == 50.0
    long = case([use()], elsewhere=[timing("A100 SXM4 40GB", 1.0, 2 * 3600.0)])  # 50 days
    assert quoted(long)["A100 (Colab Pro+)"].cost == 100.0


def test_the_cheapest_that_fits_comfortably_is_chosen() -> None:
    elsewhere = [timing("H100 SXM5", 1.0, 2.0), timing("GeForce RTX 4090", 1.0, 6.0)]
    small = cloud.best(cloud.quotes(case([use()], held=memory(needed=10 * GIB), elsewhere=elsewhere)))
    large = cloud.best(cloud.quotes(case([use()], held=memory(needed=23 * GIB), elsewhere=elsewhere)))
    assert small is not None
    assert large is not None
    assert (small.offer.gpu, large.offer.gpu) == ("RTX 4090", "H100")


def test_a_users_own_prices_replace_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        """
        [[offers]]
        provider = "Mine"
        gpu = "H200"
        hardware = "H200 SXM"
        memory_gib = 141
        per_hour = 4.0
        setup_min = 1
        source = "my contract"
        date = "2026-11-01"
        [plan]
        samples = 1
        perturbations = 2
        [network]
        rented_down = 1e9
        home_down = 1e7
        home_up = 1e6
        mac_load = 1e9
        source = "measured"
        """
    )
    monkeypatch.setenv(prices.VARIABLE, str(file))
    made = case([use()], elsewhere=[timing("H200 SXM", 1.0, 2.0)])
    assert [quote.offer.name for quote in cloud.quotes(made)] == ["H200 (Mine)"]
    assert made.plan.inferences == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("per_hour = 'free'", "per_hour"),
        ("per_hour = 1.0\nper_month = 2.0", "per_hour or per_month"),
        ("per_hour = -1.0", "below zero"),
        ("", "per_hour or per_month"),
    ],
)
def test_a_file_that_is_wrong_is_told_by_its_key(tmp_path: Path, wrong: str, told: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f"""
        [plan]
        samples = 1
        perturbations = 2
        [network]
        rented_down = 1e9
        home_down = 1e7
        home_up = 1e6
        mac_load = 1e9
        source = "measured"
        [[offers]]
        provider = "Mine"
        gpu = "H200"
        memory_gib = 141
        setup_min = 1
        source = "my contract"
        date = "2026-11-01"
        {wrong}
        """
    )
    with pytest.raises(UsageError, match=told):
        prices.load(file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        prices.load(tmp_path / "none.toml")
