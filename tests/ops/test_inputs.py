"""Inputs lie in the domain of their op: judged by running the op, and by arithmetic on the inputs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mpsprobe.ops.arguments import prepare
from mpsprobe.ops.draws import CannotRebuildError
from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.dispatch import record

CPU = torch.device("cpu")


def use_of(call: Any, *args: Any, **kwargs: Any) -> OpUse:
    """The op use that a call makes, recorded."""
    with record() as recorder, torch.no_grad():
        call(*args, **kwargs)
    return recorder.op_uses()[-1]


def arguments(use: OpUse, seed: int = 0) -> list[Any]:
    return prepare(use, seed).make(CPU)[0]


def run(use: OpUse) -> Any:
    inputs = prepare(use, 0)
    args, kwargs, _ = inputs.make(CPU)
    return inputs.func(*args, **kwargs)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, 6),
        torch.zeros(4, 6).t(),
        torch.zeros(4, 1, 6).expand(4, 5, 6),
        torch.zeros(20).as_strided((4, 5), (2, 1)),
        torch.zeros(4, 6)[:, ::2],
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(0, 3),
        torch.zeros(()),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
        torch.zeros(3, dtype=torch.complex64),
    ],
)
def test_layout_is_as_recorded(tensor: Tensor) -> None:
    inputs = prepare(use_of(torch.clone, tensor), 0)
    (made,) = inputs.make(CPU)[0][:1]
    assert made.dtype is tensor.dtype
    assert made.shape == tensor.shape
    assert made.stride() == tensor.stride()
    smallest = 1 + sum((size - 1) * stride for size, stride in zip(made.shape, made.stride(), strict=True))
    assert made.untyped_storage().nbytes() == (smallest if made.numel() else 0) * made.element_size()


def test_the_same_seed_gives_the_same_values() -> None:
    use = use_of(torch.mm, torch.zeros(3, 4), torch.zeros(4, 5))
    inputs = prepare(use, 7)
    one, other = inputs.make(CPU)[0], prepare(use, 7).make(CPU)[0]
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], arguments(use, 8)[0])
    one[0].zero_()
    assert inputs.make(CPU)[0][0].any()


def test_cpu_scalars_stay_on_the_cpu() -> None:
    number, tensor = TensorMeta("float32", (), (), "cpu"), TensorMeta("float32", (3,), (1,), "mps:0")
    meta = torch.device("meta")  # any other device: what moves and what stays is the question
    args = prepare(OpUse(op="aten::mul.Tensor", inputs=[tensor, number]), 0).make(meta)[0]
    assert [arg.device.type for arg in args] == ["meta", "cpu"]
    alone = prepare(OpUse(op="aten::mul.Tensor", inputs=[number, number]), 0).make(meta)[0]
    assert [arg.device.type for arg in alone] == ["meta", "meta"], (
        "a use recorded on the CPU moves as a whole"
    )


def test_widening_keeps_values_and_integers() -> None:
    inputs = prepare(
        use_of(torch.index_select, torch.zeros(5, 3, dtype=torch.bfloat16), 0, torch.zeros(2).long()), 0
    )
    narrow, wide = inputs.make(CPU)[0], inputs.make(CPU, torch.float64)[0]
    assert wide[0].dtype is torch.float64
    assert torch.equal(wide[0], narrow[0].double())
    assert wide[2].dtype is torch.int64


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (torch.index_select, (torch.zeros(5, 3), 0, torch.zeros(9).long())),
        (torch.index_select, (torch.zeros(5, 3), -1, torch.zeros(9).long())),
        (torch.gather, (torch.zeros(2, 5), 1, torch.zeros(2, 9).long())),
        (torch.nn.functional.embedding, (torch.zeros(2, 9).long(), torch.zeros(4, 3))),
        (torch.take, (torch.zeros(2, 3), torch.zeros(20).long())),
        (torch.nn.functional.nll_loss, (torch.zeros(6, 3), torch.zeros(6).long())),
        (lambda x, i: x[:, i], (torch.zeros(8, 3), torch.zeros(9).long())),
        (lambda x, i, j: x[i, :, j], (torch.zeros(7, 2, 3), torch.zeros(9).long(), torch.zeros(9).long())),
        (lambda x, m: x[m], (torch.zeros(7, 2), torch.arange(7) < 3)),
        (lambda x, m, i: x[m, i], (torch.zeros(7, 2, 9), torch.zeros(7, 2) == 0, torch.zeros(14).long())),
        (lambda x, i: x.scatter(1, i, x), (torch.zeros(3, 8), torch.zeros(3, 8).long())),
        (torch.multinomial, (torch.ones(3, 8), 4)),
        (torch.bernoulli, (torch.ones(3, 8) / 2,)),
        (torch.repeat_interleave, (torch.tensor([1, 0, 4]),)),
        (torch.linalg.cholesky, (torch.eye(5).expand(2, 5, 5).contiguous(),)),
        (torch.cholesky_solve, (torch.zeros(5, 2), torch.eye(5))),
        (torch.linalg.solve, (torch.eye(5), torch.zeros(5, 2))),
        (torch.linalg.inv, (torch.eye(5),)),
        (torch.linalg.inv_ex, (torch.eye(5),)),
        (torch.nn.functional.binary_cross_entropy, (torch.ones(4) / 2, torch.ones(4) / 2)),
        (torch.searchsorted, (torch.arange(6.0), torch.zeros(3))),
        (torch.floor_divide, (torch.ones(4).long(), torch.ones(4).long())),
    ],
)
def test_an_op_takes_its_own_rebuilt_inputs(call: Any, args: tuple[Any, ...]) -> None:
    use = use_of(call, *args)
    result = run(use)
    for tensor in result if isinstance(result, tuple) else (result,):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            assert tensor.isfinite().all(), use.op


@pytest.mark.parametrize("call", [torch.log, torch.sqrt, torch.rsqrt, torch.acos, torch.atanh, torch.logit])
def test_functions_of_a_limited_domain_give_numbers(call: Any) -> None:
    assert run(use_of(call, torch.full((50,), 0.5))).isfinite().all()


def test_a_cholesky_factor_is_one() -> None:
    for upper in (False, True):
        use = use_of(
            lambda b, f, upper=upper: torch.cholesky_solve(b, f, upper=upper), torch.zeros(4, 1), torch.eye(4)
        )
        factor = arguments(use)[1]
        assert torch.equal(factor, factor.triu() if upper else factor.tril())
        assert (factor.diagonal() > 0).all()


def test_masks_have_as_many_true_elements_as_recorded() -> None:
    mask = torch.arange(24).reshape(4, 6) % 5 == 0
    assert arguments(use_of(lambda x: x[mask], torch.zeros(4, 6)))[1][0].sum() == mask.sum()
    assert arguments(use_of(torch.nonzero, mask))[0].count_nonzero() == mask.sum()
    put = use_of(lambda x: x.index_put_((mask,), torch.ones(int(mask.sum()))), torch.zeros(4, 6))
    assert arguments(put)[1][0].sum() == mask.sum()
    scattered = use_of(lambda x: x.masked_scatter_(mask, torch.ones(5)), torch.zeros(4, 6))
    assert arguments(scattered)[1].sum() == 5


def test_inputs_are_no_views() -> None:
    """`detach_` refuses them: seen on an H200, where a model's image processor calls it."""
    assert run(OpUse(op="aten::detach_", inputs=[TensorMeta("float32", (2, 3), (1, 2))])).stride() == (1, 2)


def test_no_place_is_written_twice() -> None:
    index = torch.zeros(3, 8).long()
    made = arguments(use_of(lambda x: x.scatter(1, index, x), torch.zeros(3, 8)))[2]
    assert all(len(set(row.tolist())) == 8 for row in made)


def test_sorted_values_have_no_ties() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        values = arguments(use_of(torch.sort, torch.zeros(1, 1408, dtype=dtype)))[0]
        assert values.isfinite().all()
        assert len(values.unique()) == 1408


def test_products_are_about_one() -> None:
    """A bias that is dropped must stand out of the rounding of what it is added to."""
    tensors = [
        TensorMeta("float32", shape, torch.zeros(shape).stride()) for shape in ((64, 4096), (32, 4096), (32,))
    ]
    use = OpUse(op="aten::linear", inputs=tensors)
    inputs = prepare(use, 0)
    with torch.no_grad():
        spread = torch.nn.functional.linear(*inputs.make(CPU)[0]).std()
    assert 0.5 < spread < 3


def test_a_view_beyond_its_base_has_the_memory_for_it() -> None:
    base = torch.zeros(100)
    use = use_of(lambda: base[:10].as_strided((4, 5), (20, 1), 13))
    assert run(use).shape == (4, 5)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (OpUse(op="higher_order::cond", inputs=[]), "functions"),
        (OpUse(op="nobody::nothing", inputs=[]), "not an op"),
        (OpUse(op="aten::neg", inputs=[]), "neg"),
        (OpUse(op="aten::neg", inputs=[TensorMeta("qint8", (2,), (1,))]), "qint8"),
        (OpUse(op="aten::neg", inputs=[TensorMeta("float32", (2, 2), ())]), "sparse"),
    ],
)
def test_what_cannot_be_rebuilt_says_why(use: OpUse, says: str) -> None:
    with pytest.raises(CannotRebuildError, match=says):
        prepare(use, 0)


def test_a_storage_argument_is_made() -> None:
    use = OpUse(
        op="aten::set_.source_Storage_storage_offset",
        inputs=[TensorMeta("float32", (0,), (1,))],
        scalars={"source": "UntypedStorage", "storage_offset": 2, "size": [3], "stride": [2]},
    )
    assert run(use).untyped_storage().nbytes() == math.prod((7, 4))
