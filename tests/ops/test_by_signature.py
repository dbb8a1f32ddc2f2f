"""Uses of an op with one signature become one use that holds the sums."""

from __future__ import annotations

import torch

from mpsprobe.ops.distinct import by_signature
from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.dispatch import record
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
    assert sum(use.count for use in merged) == sum(use.count for use in uses)
    assert sum(use.flops or 0 for use in merged) == sum(use.flops or 0 for use in uses) > 0
    assert len(merged) < 0.7 * len(uses)
