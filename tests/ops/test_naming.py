from __future__ import annotations

import pytest

from mpsprobe.ops.distinct import is_packed, unique_names, use_name
from mpsprobe.run import OpUse, TensorMeta


def meta(dtype: str, *shape: int, strides: tuple[int, ...] | None = None) -> TensorMeta:
    import torch

    return TensorMeta(dtype, shape, strides or torch.empty(shape).stride(), "mps:0")


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (
            OpUse(op="aten::cholesky_solve", inputs=[meta("float32", 1, 17, 1)]),
            "aten.cholesky_solve-f32-1x17x1",
        ),
        (OpUse(op="aten::mm", inputs=[meta("float32", 2, 3), meta("float32", 3, 4)]), "aten.mm-f32-2x3_3x4"),
        (OpUse(op="aten::cat", inputs=[meta("bfloat16", 2, 3)] * 16), "aten.cat-bf16-2x3*16"),
        (
            OpUse(
                op="aten::sum.dim_IntList", inputs=[meta("bool", 2)], scalars={"dim": [-1], "keepdim": True}
            ),
            "aten.sum.dim_IntList-bool-2-dim=-1,keepdim=True",
        ),
        (OpUse(op="aten::t", inputs=[meta("int64", 4, 3, strides=(1, 4))]), "aten.t-i64-4x3~1.4"),
        (OpUse(op="aten::neg", inputs=[meta("float16")]), "aten.neg-f16-0d"),
        (
            OpUse(op="aten::empty.memory_format", inputs=[], scalars={"size": [2], "device": "mps:0"}),
            "aten.empty.memory_format-size=2",
        ),
    ],
)
def test_names_are_readable(use: OpUse, name: str) -> None:
    assert use_name(use) == name


def test_names_hold_nothing_that_pytest_or_a_shell_changes() -> None:
    use = OpUse(op="aten::x", inputs=[], scalars={"mode": "a[b] $c/\n", "many": list(range(99))})
    assert all(sign.isalnum() or sign in ".,=+~*-_" for sign in use_name(use))
    assert len(use_name(use)) < 80


def test_uses_that_a_name_cannot_tell_apart_get_a_digest() -> None:
    one = OpUse(op="aten::copy_", inputs=[meta("float32", 2)], outputs=[meta("float32", 2)])
    other = OpUse(op="aten::copy_", inputs=[meta("float32", 2)], outputs=[meta("float32", 3)])
    names = unique_names([one, other, OpUse(op="aten::neg", inputs=[meta("float32", 2)])])
    assert len(set(names)) == 3
    assert names[2] == "aten.neg-f32-2"
    assert unique_names([other, one])[1] == names[0], "a name does not depend on the order"


def test_packed_is_contiguous() -> None:
    import torch

    for tensor in (
        torch.empty(2, 3, 4),
        torch.empty(2, 3, 4).transpose(0, 1),
        torch.empty(1, 3, 1).transpose(0, 2),
        torch.empty(3, 1).expand(3, 5),
        torch.empty(0, 5).t(),
        torch.empty(()),
        torch.empty(4, 6)[:, 1:3],
    ):
        recorded = TensorMeta("float32", tuple(tensor.shape), tensor.stride())
        assert is_packed(recorded) == tensor.is_contiguous(), tensor.stride()
