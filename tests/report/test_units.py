import math

import pytest

from mpsprobe import quantities
from mpsprobe.report import wording
from mpsprobe.run import Evidence, Measurement


def shown(value: float | str | bool | None, unit: str) -> wording.Value:
    return wording.value(Measurement("x", value, unit, Evidence.MEASURED, "cpu"))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1.00 KiB"),
        (22_157_052_388, "20.64 GiB"),  # Alpamayo's weights: 22.157 GB is 20.64 GiB
        (64 * 2**30, "64.00 GiB"),
        (5_000 * 2**50, "5,000.00 PiB"),
        (-2048, "-2.00 KiB"),
    ],
)
def test_sizes_are_binary_and_say_so(count: int, text: str) -> None:
    assert quantities.size(count) == text


def test_weights_are_told_in_both_units() -> None:
    assert quantities.both_sizes(22_157_052_388) == "22.16 GB (20.64 GiB)"
    assert quantities.both_sizes(10) == "10 bytes"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0 s"),
        (4.2e-7, "0.42 µs"),
        (0.00084, "840 µs"),
        (0.0132, "13.2 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1.00 s"),
        (2.414, "2.41 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (185.2, "3 min 5 s"),
        (3599.7, "1 h"),
        (4320, "1 h 12 min"),
        (-0.5, "-500 ms"),
        (math.inf, "inf s"),
    ],
)
def test_durations_never_show_sixty_of_the_smaller_unit(duration: float, text: str) -> None:
    assert quantities.seconds(duration) == text


@pytest.mark.parametrize(
    ("value", "unit", "text", "exact"),
    [
        (True, "", "yes", ""),
        (False, "", "no", ""),
        (None, "the device has no such counter", "not available: the device has no such counter", ""),
        ("slow down", "", "slow down", ""),
        (5, "", "5", ""),
        (11_078_526_194, "", "11,078,526,194", ""),
        (0.05132, "s", "51.3 ms", "0.05132 s"),
        (2048, "bytes", "2.05 kB", "2,048 bytes"),
        (1.5e9, "bytes/s", "1.50 GB/s", "1500000000.0 bytes/s"),
        (63.7e12, "FLOP", "63.70 TFLOP", "63700000000000.0 FLOP"),
        (8.125e12, "FLOP/s", "8.12 TFLOP/s", "8125000000000.0 FLOP/s"),
        (0.00031, "m", "0.00031 m", ""),
        (1 / 3, "", "0.3333", "0.3333333333333333"),
        (math.nan, "m", "nan m", ""),
    ],
)
def test_values_keep_the_recorded_number_when_they_round(
    value: float, unit: str, text: str, exact: str
) -> None:
    assert shown(value, unit) == wording.Value(text, exact)


def test_parameters_in_words_and_in_full() -> None:
    assert quantities.parameters(11_078_526_194) == "11.08 billion (11,078,526,194)"
    assert quantities.parameters(4_812_034) == "4.81 million (4,812,034)"
    assert quantities.parameters(12) == "12"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1234567, "1,234,567"), (2.0, "2"), (12345678901.0, "12,345,678,901"), (2e15, "2e+15"),
        (3 * 10**15, "3,000,000,000,000,000"),
        (0.123456, "0.1235"), (12345.6, "12,346"), (float("nan"), "nan"), (float("-inf"), "-inf"),
    ],
)  # fmt: skip
def test_plain_numbers(number: float, text: str) -> None:
    assert quantities.plain(number) == text


def test_estimates_lose_the_digits_that_say_nothing() -> None:
    # a range of 3 to 59 minutes does not know 37 seconds
    cases = {
        1477: "25 min",
        899: "15 min",
        206: "3 min 30 s",
        9843: "2 h 40 min",
        45_000: "12 h",
        20: "20.0 s",
    }
    assert {span: quantities.rough(span) for span in cases} == cases
    assert quantities.rough(3595) == "1 h"
    assert quantities.rough(float("inf")) == "inf s"


def test_a_cut_text_ends_with_a_word() -> None:
    assert quantities.cut("please comment and mention it", 22) == "please comment and ..."
    assert quantities.cut("short", 5) == "short"
    assert quantities.cut("a" * 30, 10) == f"{'a' * 10} ..."
