"""Kinds of work: every formula's family has a rate on the clock and a name in reports."""

from __future__ import annotations

import pytest

from mpsprobe.forecast.kinds import KIND_OF_FAMILY, MOVING, kind_of
from mpsprobe.trace.formulas.registry import FAMILY_NAMES, FORMULAS, OpFamily, family, family_of

#: Kinds of work that `Machine.compute` has rates for.
_RATES = {"matmul", "attention", "conv"}


@pytest.mark.parametrize("member", list(OpFamily))
def test_the_clock_and_reports_know_every_family(member: OpFamily) -> None:
    assert KIND_OF_FAMILY[member] in _RATES | MOVING
    assert FAMILY_NAMES[member]


def test_every_formula_has_a_family() -> None:
    assert FORMULAS
    assert [name for name in FORMULAS if family_of(name) is None] == []
    assert {family_of(name) for name in FORMULAS} == set(OpFamily)


@pytest.mark.parametrize(
    ("op", "kind", "name"),
    [
        ("aten::addmm", "matmul", "matrix products"),
        ("aten::linear", "matmul", "matrix products"),
        ("aten::_scaled_dot_product_attention_math_for_mps", "attention", "attention"),
        ("aten::_mps_convolution", "conv", "convolutions"),
        ("aten::convolution", "conv", "convolutions"),
        ("aten::_lstm_mps", "matmul", "recurrent layers"),
        ("aten::linalg_qr", "matmul", "decompositions"),
        ("aten::native_layer_norm", "reduction", "norms, softmax and reductions"),
        ("aten::_softmax", "reduction", "norms, softmax and reductions"),
        ("aten::native_group_norm", "group_norm", "norms, softmax and reductions"),
        ("aten::add_.Tensor", "stream", "elementwise"),
        ("aten::gelu", "math", "elementwise"),
        ("aten::view", "view", "copies and others"),
        ("aten::an_op_of_tomorrow", "stream", "copies and others"),
    ],
)
def test_ops_have_their_kind_and_family(op: str, kind: str, name: str) -> None:
    assert kind_of(op) == kind
    assert family(op) == name
