"""Regimes of ops against what PyTorch's pull requests and issues print."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge import ops, speed
from mpsprobe.knowledge.speed import Regime, became_metal, regime


@pytest.mark.parametrize(
    ("op", "release", "found"),
    [
        # https://github.com/pytorch/pytorch/issues/148219: with 2.7 dev exp, tanh and erfinv take 1.2 to 1.4 us of the
        # host, sqrt 20.7; sqrt is a Metal kernel in the release
        ("aten::exp.out", "2.7", Regime.METAL),
        ("aten::tanh.out", "2.7", Regime.METAL),
        ("aten::erfinv.out", "2.7", Regime.METAL),
        ("aten::sqrt.out", "2.6", Regime.GRAPH),
        ("aten::sqrt.out", "2.7", Regime.METAL),
        # https://github.com/pytorch/pytorch/pull/143656: mul moves to Metal after 2.5
        ("aten::mul.Tensor", "2.5", Regime.GRAPH),
        # https://github.com/pytorch/pytorch/pull/197000: softplus, 15.6 us before, 5.7 after, for 2.15
        ("aten::softplus.out", "2.14", Regime.GRAPH),
        ("aten::softplus.out", "2.15", Regime.METAL),
        # https://github.com/pytorch/pytorch/pull/145301: a fused RMSNorm as a Metal kernel
        ("aten::_fused_rms_norm", "2.8", Regime.METAL),
        ("aten::add.Tensor", "2.6", Regime.GRAPH),
        ("aten::add.Tensor", "2.8", Regime.METAL),
        # https://github.com/pytorch/pytorch/pull/181514: softmax leaves MPSGraph for 2.15
        ("aten::_softmax.out", "2.14", Regime.GRAPH),
    ],
)
def test_regimes_are_those_that_pull_requests_tell(op: str, release: str, found: Regime) -> None:
    assert regime(op, release) is found


def test_every_release_with_an_op_table_has_regimes() -> None:
    assert speed.releases_with_regimes() == list(ops.releases())


def test_an_unknown_op_has_no_regime() -> None:
    assert regime("aten::no_such_op", "2.8") is None
    assert regime("aten::add.Tensor", "1.13") is None
    assert regime("aten::add.Tensor", "2.99") is regime("aten::add.Tensor", speed.releases_with_regimes()[-1])


def test_the_release_that_moved_an_op_to_metal_is_known() -> None:
    assert became_metal("aten::add.Tensor") == "2.8"
    assert became_metal("aten::softplus.out") == "2.15"
    assert became_metal("aten::linear") is None
