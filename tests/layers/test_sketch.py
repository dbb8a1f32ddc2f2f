"""Distances from sketches against distances computed from the tensors themselves."""

from __future__ import annotations

import math

import pytest
import torch

from mpsprobe.layers import capture as module
from mpsprobe.layers.capture import PARTS, distance, sketch


def true_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("size", [1, 2, 63, 64])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0])
def test_small_tensors_are_kept_whole(size: int, scale: float) -> None:
    torch.manual_seed(size)
    expected = torch.randn(size).double()
    found = expected + scale * torch.randn(size).double()
    assert distance(sketch(found), sketch(expected)).error == pytest.approx(
        true_error(found, expected), rel=1e-6
    )


@pytest.mark.parametrize("size", [65, 1000, 4097, 300_000])
def test_large_ones_give_the_error_to_some_per_cent(size: int) -> None:
    torch.manual_seed(0)
    ratios = []
    for _ in range(20):
        expected = torch.randn(size)
        found = expected + 1e-4 * torch.randn(size)
        ratios.append(distance(sketch(found), sketch(expected)).error / true_error(found, expected))
    assert sum(ratios) / 20 == pytest.approx(1, abs=0.1)
    assert 0.6 < min(ratios) <= max(ratios) < 1.4  # four standard deviations of sqrt(2 / 64) / 2


def test_the_same_tensor_has_no_distance_in_any_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensor = torch.randn(40, 50, 7, generator=torch.Generator().manual_seed(0))
    one = sketch(tensor)
    assert distance(sketch(tensor.transpose(0, 1).contiguous().transpose(0, 1)), one).error == 0
    monkeypatch.setattr(module, "_BLOCK", 500)
    assert distance(sketch(tensor), one).error < 1e-14
    assert one.rms == pytest.approx(float(tensor.double().square().mean().sqrt()))


def test_a_fault_in_one_place_shows_in_the_worst_part() -> None:
    expected = torch.randn(6400, generator=torch.Generator().manual_seed(0))
    found = expected.clone()
    found[1000:1100] *= 1.1  # one part of 64
    apart = distance(sketch(found), sketch(expected))
    assert apart.worst_part == pytest.approx(8 * apart.error)
    assert apart.worst_part > 0.001


def test_what_is_not_finite_is_counted_and_told() -> None:
    expected = torch.ones(1000)
    found = expected.clone()
    found[3], found[500], found[501] = math.nan, math.inf, -math.inf
    made = sketch(found)
    assert (made.nan, made.inf) == (1, 2)
    assert distance(made, sketch(expected)).problem == "1 of 1,000 elements are NaN, 0 in the reference"
    # A mask of -inf is as it should be when the reference has it too.
    assert distance(made, made).problem == ""
    assert distance(made, made).error == 0


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(100),
        torch.arange(100) % 2 == 0,
        torch.randn(100).to(torch.bfloat16),
        torch.randn(100, dtype=torch.complex64),
        torch.empty(0, 5),
        torch.tensor(3.5),
        torch.zeros(10),
    ],
    ids=["int64", "bool", "bfloat16", "complex64", "empty", "scalar", "zeros"],
)
def test_any_dtype_and_shape(tensor: torch.Tensor) -> None:
    made = sketch(tensor)
    assert made.sums.shape == (PARTS,)
    assert made.shape == tuple(tensor.shape)
    assert distance(made, sketch(tensor.clone())).error == 0


def test_another_shape_is_a_problem() -> None:
    assert (
        distance(sketch(torch.ones(2, 3)), sketch(torch.ones(3, 2))).problem
        == "shape [2, 3] instead of [3, 2]"
    )


def test_the_signs_never_change() -> None:
    """A baseline of one release must be readable by the next: these are the first bits of PCG64(20260101)."""
    import numpy as np

    word = int(np.random.PCG64(20260101).random_raw())
    bits = [(int(word).to_bytes(8, "little")[i // 8] >> (7 - i % 8)) & 1 for i in range(64)]
    assert sketch(torch.ones(64)).sums.tolist() == [1.0 - 2 * bit for bit in bits]
