"""Totals by arithmetic on a handful of uses."""

from __future__ import annotations

import torch

from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.summary import Total, by_module, by_signature, total, totals_by
from tests.trace.zoo import llama


def use(op: str, module: str, count: int, flops: int | None, size: int = 2) -> OpUse:
    meta = TensorMeta("float32", (size,), (1,))
    return OpUse(op=op, inputs=[meta], module=module, count=count, flops=flops, bytes=8 * count)


USES = [
    use("aten::exp", "a.x", 2, 20),
    use("aten::exp", "a.y", 3, 30),
    use("aten::sin", "b", 1, None),
    use("aten::exp", "b", 1, 50, size=5),
]


def test_totals() -> None:
    assert total(USES) == Total("all", uses=4, calls=7, flops=100, bytes=56, uncounted=1)
    assert total([]) == Total("all")


def test_totals_by_op_and_by_module() -> None:
    assert [(row.name, row.calls, row.flops) for row in totals_by(USES, lambda one: one.op)] == [
        ("aten::exp", 6, 100),
        ("aten::sin", 1, 0),
    ]
    assert [(row.name, row.calls) for row in totals_by(USES, by_module(1))] == [("a", 5), ("b", 2)]


def test_one_use_for_each_signature() -> None:
    merged = by_signature(USES)
    assert [(one.op, one.module, one.count, one.flops, one.bytes) for one in merged] == [
        ("aten::exp", "a.x", 5, 50, 40),
        ("aten::sin", "b", 1, None, 8),
        ("aten::exp", "b", 1, 50, 8),
    ]
    assert USES[0].count == 2  # the originals stay as they were


def test_layers_of_a_model_share_their_signatures() -> None:
    model = llama()
    with torch.no_grad(), record(model) as recorder:
        model(torch.arange(3, 13)[None])
    uses = recorder.op_uses()
    merged = by_signature(uses)
    assert total(merged).calls == total(uses).calls
    assert total(merged).flops == total(uses).flops
    assert len(merged) < 0.7 * len(uses)
