from __future__ import annotations

import torch

from mpsprobe.ops.distinct import is_simple, representatives
from mpsprobe.run import OpUse
from mpsprobe.trace.dispatch import record
from tests.ops.test_naming import meta
from tests.trace.zoo import ZOO, llama


def test_every_call_is_counted_once() -> None:
    run = ZOO["llama-generate"]()
    with record() as recorder:
        run()
    uses = recorder.op_uses()
    few = representatives(uses)
    assert sum(use.count for use in few) == sum(use.count for use in uses)
    assert {use.op for use in few} == {use.op for use in uses}
    assert len(few) < len(uses)
    dtypes = {(use.op, tuple(t.dtype for t in use.inputs)) for use in uses}
    assert dtypes == {(use.op, tuple(t.dtype for t in use.inputs)) for use in few}


def test_a_longer_generation_gives_no_more_of_them() -> None:
    model = llama()
    counts = []
    for steps in (6, 12):
        with record(model) as recorder, torch.no_grad():
            model.generate(torch.arange(3, 13)[None], max_new_tokens=steps, do_sample=False, pad_token_id=0)
        counts.append(len(representatives(recorder.op_uses())))
    assert counts[0] == counts[1]


def test_of_a_growing_size_the_first_and_the_last_are_kept() -> None:
    uses = [
        OpUse(op="aten::bmm", inputs=[meta("float32", 4, 1, 8), meta("float32", 4, 8, 20 + step)])
        for step in range(9)
    ]
    few = representatives(uses)
    assert [use.inputs[1].shape[2] for use in few] == [20, 28]
    assert [use.count for use in few] == [1, 8]


def test_shapes_that_do_not_grow_are_all_kept() -> None:
    shapes = [(64, 128), (128, 64), (96, 48), (48, 256), (200, 10)]
    uses = [OpUse(op="aten::mm", inputs=[meta("float32", 3, a), meta("float32", a, b)]) for a, b in shapes]
    assert len(representatives(uses)) == len(shapes)


def test_layout_dtype_and_flags_are_kinds_of_their_own() -> None:
    def mm(dtype: str, strides: tuple[int, ...] | None = None) -> OpUse:
        return OpUse(op="aten::mm", inputs=[meta(dtype, 3, 4, strides=strides), meta(dtype, 4, 5)])

    uses = [mm("float32"), mm("float32", (1, 3)), mm("bfloat16")]
    uses += [OpUse(op="aten::_softmax", inputs=[meta("float32", 3, 4)], scalars={"dim": d}) for d in (0, 1)]
    assert len(representatives(uses)) == len(uses)


def test_simple_ops() -> None:
    assert is_simple("aten::add.Tensor")
    assert is_simple("aten::view")
    assert not is_simple("aten::mm")
    assert not is_simple("nobody::nothing")
