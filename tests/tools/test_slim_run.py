"""Fewer op uses in an example's run.json, and the same sums."""

from __future__ import annotations

from mpsprobe.run import OpUse
from slim_run import slim


def _use(module: str, count: int, flops: int | None = 4, op: str = "aten::mul.Tensor") -> OpUse:
    return OpUse(op=op, inputs=[], module=module, count=count, flops=flops, bytes=count * 8)


def test_layers_become_one_and_their_sums_stay() -> None:
    uses = [_use("model.layers.0.mlp", 2), _use("model.layers.11.mlp", 3), _use("model.norm", 1)]
    slimmed = slim(uses)
    assert [(one.module, one.count, one.flops, one.bytes) for one in slimmed] == [
        ("model.layers.*.mlp", 5, 8, 40),
        ("model.norm", 1, 4, 8),
    ]
    assert uses[0].module == "model.layers.0.mlp"


def test_other_ops_and_uncounted_flops_are_not_mixed_up() -> None:
    uses = [_use("layers.0", 1), _use("layers.1", 1, op="aten::add.Tensor"), _use("layers.2", 1, flops=None)]
    slimmed = slim(uses)
    assert [(one.op, one.count, one.flops) for one in slimmed] == [
        ("aten::mul.Tensor", 2, None),
        ("aten::add.Tensor", 1, 4),
    ]
