from __future__ import annotations

import math

import pytest
import torch

from mpsprobe.ops.compare import compare, same_bits, tolerances


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
def test_pointwise_tolerances_are_those_of_torch_testing(dtype: torch.dtype) -> None:
    rtol, atol = tolerances(dtype, 1e6, pointwise=True)
    one = torch.ones(1, dtype=dtype)
    torch.testing.assert_close(one, one, rtol=None, atol=None)
    # what assert_close accepts and refuses, found out by asking it
    step = float(torch.finfo(dtype).eps)
    for excess in (0.5, 4.0):
        other = one * (1 + excess * (rtol + atol) + (step if excess > 1 else 0))
        accepted = abs(complex(other) - complex(one)) <= atol + rtol
        try:
            torch.testing.assert_close(other, one)
            assert accepted
        except AssertionError:
            assert not accepted


def test_integers_must_be_equal() -> None:
    found = compare(0, torch.tensor([1, 2, 4]), torch.tensor([1, 2, 3]), None, pointwise=False)
    assert (found.off, found.agrees) == (1, False)
    assert "[2]: 4" in found.worst


def test_a_sum_is_judged_by_the_scale_of_the_result() -> None:
    reference = torch.tensor([1000.0, 1e-3], dtype=torch.float64)
    found = (reference + torch.tensor([0.0, 1e-2])).float()
    assert compare(0, found, reference, None, pointwise=False).agrees
    assert not compare(0, found, reference, None, pointwise=True).agrees


def test_rounding_of_the_dtype_itself_is_no_fault() -> None:
    reference = torch.tensor([0.0, 1000.0], dtype=torch.float64)
    found, noisy = torch.tensor([0.3, 1000.0]), torch.tensor([0.1, 1000.0])
    assert compare(0, found, reference, noisy, pointwise=True).agrees
    assert not compare(0, found + 1, reference, noisy, pointwise=True).agrees


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted(value: float) -> None:
    reference = torch.ones(4, dtype=torch.float64)
    found = torch.ones(4)
    found[1] = value
    result = compare(0, found, reference, None, pointwise=True)
    assert (result.not_finite, result.agrees) == (1, False)
    assert "[1]" in result.worst


def test_beyond_the_range_of_the_dtype_infinity_is_right() -> None:
    reference = torch.tensor([1e6, -1e6, 1.0], dtype=torch.float64)
    right = torch.tensor([math.inf, -math.inf, 1.0], dtype=torch.float16)
    assert compare(0, right, reference, None, pointwise=True).agrees
    assert not compare(0, -right, reference, None, pointwise=True).agrees


def test_nan_belongs_where_the_reference_has_it() -> None:
    reference = torch.tensor([math.nan, 1.0], dtype=torch.float64)
    assert compare(0, reference.float(), reference, None, pointwise=True).agrees
    assert not compare(0, torch.tensor([0.0, 1.0]), reference, None, pointwise=True).agrees


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.bool, torch.float16])
def test_every_dtype_can_be_compared(dtype: torch.dtype) -> None:
    found = torch.ones(2, 2).to(dtype)
    wide = found.to(torch.complex128 if dtype.is_complex else torch.float64)
    assert compare(0, found, wide, found, pointwise=True).agrees
    assert same_bits(found, found.clone())


def test_no_dimensions_and_no_elements() -> None:
    assert "[]: 2" in compare(0, torch.tensor(2.0), torch.tensor(1.0).double(), None, pointwise=True).worst
    assert compare(0, torch.zeros(0), torch.zeros(0).double(), torch.zeros(0), pointwise=True).agrees


def test_nan_is_the_same_as_nan() -> None:
    one = torch.tensor([math.nan, 1.0])
    assert same_bits(one, one.clone())
    assert not same_bits(one, torch.tensor([0.0, 1.0]))
