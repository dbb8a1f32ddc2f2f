"""The map from ATen to MLX, its traps, and the architectures that the libraries hold."""

from __future__ import annotations

import math

import pytest

from mpsprobe.knowledge import mlx, ops
from mpsprobe.knowledge.mlx import Kind
from mpsprobe.run import OpUse, TensorMeta

F32, BOOL, INT = "float32", "bool", "int64"


def use(op: str, *inputs: TensorMeta, **scalars: object) -> OpUse:
    return OpUse(op=op, inputs=list(inputs), scalars=dict(scalars))


def tensor(dtype: str, *shape: int, strides: tuple[int, ...] | None = None) -> TensorMeta:
    packed = tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))
    return TensorMeta(dtype, shape, strides or packed)


def test_every_op_of_the_map_and_of_the_traps_is_one_of_torchs() -> None:
    bases = {mlx.base(op) for op in ops.known_ops()}
    named = {mlx.base(op) for row in mlx.rows() for op in row.ops}
    assert {op for op in named if op not in bases and f"{op}_" not in bases} == set()
    assert {op for trap in mlx.traps() for op in trap.ops} <= bases


def test_most_rows_were_executed_and_the_others_say_why() -> None:
    rows = mlx.rows()
    executed = [row for row in rows if row.executed]
    assert len(executed) > 0.75 * len(rows)
    assert all(row.error is not None for row in executed if row.kind is Kind.DIRECT)


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("aten::add.Tensor", Kind.DIRECT),
        ("aten::add_.Tensor", Kind.DIRECT),  # in place
        ("aten::add.out", Kind.DIRECT),
        ("aten::mm", Kind.DIRECT),
        ("aten::nonzero", Kind.HOST),
        ("aten::masked_select", Kind.HOST),
        ("aten::repeat_interleave.Tensor", Kind.HOST),
        ("aten::repeat_interleave.self_int", Kind.DIRECT),
        ("aten::grid_sampler_2d", Kind.MISSING),
        ("aten::lgamma", Kind.MISSING),
        ("aten::topk", Kind.COMPOSE),
        ("aten::_scaled_dot_product_attention_math_for_mps", Kind.DIRECT),
    ],
)
def test_an_op_is_found_in_any_form(op: str, kind: Kind) -> None:
    row = mlx.row_for(use(op, tensor(F32, 2, 3)))
    assert row is not None
    assert row.kind is kind


def test_only_a_boolean_index_needs_the_host() -> None:
    by_mask = mlx.row_for(use("aten::index.Tensor", tensor(F32, 4), tensor(BOOL, 4)))
    by_number = mlx.row_for(use("aten::index.Tensor", tensor(F32, 4), tensor(INT, 2)))
    assert by_mask is not None
    assert by_number is not None
    assert (by_mask.kind, by_number.kind) == (Kind.HOST, Kind.DIRECT)


def test_an_op_that_is_not_there_is_not_there() -> None:
    assert mlx.row_for(use("mylib::op")) is None
    assert mlx.row_for(use("aten::_cudnn_rnn")) is None


def met(one: OpUse) -> set[str]:
    return {trap.id for trap, _ in mlx.traps_met([one])}


def test_traps_need_more_than_the_name_of_an_op() -> None:
    query, keys = tensor(F32, 1, 2, 3, 8), tensor(F32, 1, 2, 5, 8)
    sdpa = "aten::_scaled_dot_product_attention_math_for_mps"
    assert "sdpa-causal-decode" in met(use(sdpa, query, keys, keys, is_causal=True))
    assert "sdpa-causal-decode" not in met(use(sdpa, keys, keys, keys, is_causal=True))
    assert "sdpa-causal-decode" not in met(use(sdpa, query, keys, keys))
    assert "boolean-read" in met(use("aten::index.Tensor", tensor(F32, 4), tensor(BOOL, 4)))
    assert "boolean-read" not in met(use("aten::index.Tensor", tensor(F32, 4), tensor(INT, 4)))
    part, whole = tensor(F32, 2, 2, strides=(4, 1)), tensor(F32, 2, 2)
    assert "views-do-not-alias" in met(use("aten::add_.Tensor", part, whole))
    assert "views-do-not-alias" not in met(use("aten::add_.Tensor", whole, whole))


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3_vl", "qwen2_vl"])
def test_proofs_are_of_architectures_that_the_libraries_name(name: str) -> None:
    proofs = [proof for proof in mlx.proofs() if proof.model_type == name]
    assert proofs
    homes = {package.name for package in mlx.packages() if package.module(name)}
    assert {proof.package for proof in proofs} <= homes
    assert all(
        proof.error is not None and proof.error <= (proof.gate or 0) for proof in proofs if proof.agrees
    )


def test_mlx_has_alpamayos_backbone_only() -> None:
    assert not any(package.module("alpamayo_r1") for package in mlx.packages())
    held = {package.name: package.module("qwen3_vl") for package in mlx.packages()}
    assert (held["mlx-lm"], held["mlx-vlm"]) == ("qwen3_vl", "qwen3_vl")
