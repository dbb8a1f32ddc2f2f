"""Operands without elements: what each release's kernels make of them.

A tensor without memory has no Metal buffer, and MPSGraph's Placeholder refuses it unless the kernel returned before.
Truth: the reports and pull requests named, and the sources of 2.6 (aten/src/ATen/native/mps/operations).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mpsprobe.device.virtual.session import emulate, predict
from mpsprobe.errors import OutOfReachError
from mpsprobe.knowledge import dtypes
from mpsprobe.run import TensorMeta

pytestmark = pytest.mark.own_process

TEXT = r"^\[srcBuf length\] > 0 INTERNAL ASSERT FAILED at .*OperationUtils\.mm.*Placeholder tensor is empty!$"


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="mps")


CASES: dict[str, tuple[str, str, Callable[[], object]]] = {
    # last release that refuses, first that does not, call
    "a grid without rows": ("2.13", "2.14", lambda: _sample((1, 3, 4, 4), (1, 0, 5, 2))),  # kornia 4354
    "a pixel, a grid without rows": ("2.13", "2.14", lambda: _sample((1, 3, 1, 1), (1, 0, 5, 2))),
    "no batch": ("2.13", "2.14", lambda: _sample((0, 3, 4, 4), (0, 5, 5, 2))),
    "baddbmm": ("2.13", "2.14", lambda: torch.baddbmm(_zeros(2, 0, 1), _zeros(2, 0, 3), _zeros(2, 3, 1))),
    "binary_cross_entropy": ("2.14", "2.15", lambda: F.binary_cross_entropy(_zeros(0), _zeros(0))),
    "isposinf": ("2.8", "2.9", lambda: torch.isposinf(_zeros(0))),  # pull request 161824
    "dot": ("2.9", "2.10", lambda: torch.dot(_zeros(0), _zeros(0))),  # pull request 165237
    "mv": ("2.9", "2.10", lambda: _zeros(0, 9) @ _zeros(9)),  # pytorch 137406
    "mse_loss": ("2.6", "2.7", lambda: F.mse_loss(_zeros(0), _zeros(0))),  # pull request 148608
    "smooth_l1_loss": ("2.6", "2.7", lambda: F.smooth_l1_loss(_zeros(0), _zeros(0))),  # pull request 148133
    "threshold": ("2.6", "2.15", lambda: F.threshold(_zeros(0, 2), 0.1, 2.0)),
    "index_add": ("2.6", "2.15", lambda: _zeros(0, 1).index_add(1, _first(), _zeros(0, 1))),
}


def _first() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64, device="mps")


def _sample(source: tuple[int, ...], grid: tuple[int, ...]) -> torch.Tensor:
    return F.grid_sample(_zeros(*source), _zeros(*grid), align_corners=False)


@pytest.mark.parametrize("case", CASES)
def test_refused_up_to_the_release_that_fixed_it(case: str) -> None:
    last, first, call = CASES[case]
    with emulate(last), pytest.raises(RuntimeError, match=TEXT):
        call()
    with emulate(first) as session:
        call()
        assert session.findings == []


@pytest.mark.parametrize("case", CASES)
def test_predict_collects_the_same(case: str) -> None:
    last, first, call = CASES[case]
    with predict(last) as session:
        call()
    assert [finding.kind for finding in session.findings] == ["limit"]
    assert re.match(TEXT, session.findings[0].message)
    with predict(first) as session:
        call()
    assert session.findings == []


def test_a_transform_that_only_the_host_refuses_is_out_of_reach() -> None:
    with emulate("2.13"), pytest.raises(RuntimeError, match=TEXT):  # pytorch 190011
        torch.fft.fft(_zeros(0, 3, 7))
    if not torch.backends.mkl.is_available():
        return
    with pytest.raises(RuntimeError, match="MKL FFT error"):  # before pull request 190483
        torch.fft.fft(torch.zeros(0, 3, 7))
    with emulate("2.15"), pytest.raises(OutOfReachError, match="MKL FFT error"):
        torch.fft.fft(_zeros(0, 3, 7))


# kernels of 2.6 that return early
@pytest.mark.parametrize(
    "call",
    [
        lambda: _sample((1, 3, 1, 1), (1, 1, 1, 2)),
        lambda: _zeros(0, 3) @ _zeros(3, 2),
        lambda: _zeros(2, 0) @ _zeros(0, 3),
        lambda: _zeros(3, 0) @ _zeros(0),
        lambda: F.relu(_zeros(0, 2)),
        lambda: F.layer_norm(_zeros(0, 2), (2,)),
        lambda: F.linear(_zeros(0, 2), _zeros(3, 2), _zeros(3)),
        lambda: F.conv2d(_zeros(0, 3, 4, 4), _zeros(2, 3, 3, 3)),
        lambda: torch.cat([_zeros(0), _zeros(1)]),
        lambda: _zeros(0).sum() + _zeros(0, 2).exp().mean(),
        lambda: _zeros(2, 2).index_add(0, _first()[:0], _zeros(0, 2)),
        lambda: torch.addbmm(_zeros(2, 2), _zeros(0, 2, 3), _zeros(0, 3, 2)),
    ],
)
def test_kernels_that_return_early_are_not_refused(call: Callable[[], object]) -> None:
    with emulate("2.6") as session:
        call()
        assert session.findings == []


def test_an_empty_view_of_a_storage_has_a_buffer() -> None:
    with emulate("2.9") as session:
        torch.dot(_zeros(4)[2:2], _zeros(4)[2:2])
        assert session.findings == []


def _meta(shape: tuple[int, ...]) -> TensorMeta:
    return TensorMeta("float32", shape, torch.empty(shape, device="meta").stride(), "mps")


def test_a_recorded_call_of_empty_operands_is_judged_by_release() -> None:
    def says(op: str, torch_release: str, *shapes: tuple[int, ...], result: tuple[int, ...] = ()) -> object:
        inputs = [_meta(shape) for shape in shapes]
        return dtypes.check_tensors(op, inputs, [_meta(result)], torch_release, "15.5")

    refused = says("aten::grid_sampler_2d", "2.12", (1, 3, 4, 4), (1, 0, 5, 2), result=(1, 3, 0, 5))
    assert isinstance(refused, dtypes.Restriction)
    assert refused.certain
    assert refused.message == dtypes.EMPTY
    assert says("aten::grid_sampler_2d", "2.12", (1, 3, 4, 4), (1, 1, 5, 2), result=(1, 3, 1, 5)) is None
    assert says("aten::grid_sampler_2d", "2.14", (1, 3, 4, 4), (1, 0, 5, 2), result=(1, 3, 0, 5)) is None
    assert says("aten::addmv", "2.9", (0,), (0, 9), (9,), result=(0,)) is not None
    assert says("aten::addmv", "2.9", (3,), (3, 0), (0,), result=(3,)) is None
