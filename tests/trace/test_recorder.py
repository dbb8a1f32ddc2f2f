"""What tells uses apart, how they are written, and that a written use can be run again."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import msgspec
import pytest
import torch

from mpsprobe.run import Evidence, OpUse, TensorMeta
from mpsprobe.trace.dispatch import record
from mpsprobe.trace.recorder import Recorder
from mpsprobe.trace.signature import rebuild
from tests.trace.zoo import ZOO, metas

aten = torch.ops.aten


def uses_of(*calls: tuple[Any, ...]) -> list[OpUse]:
    """Calls reported as the virtual device reports them, all from one line."""
    recorder = Recorder()
    for func, *args in calls:
        recorder.op(func, tuple(args), {}, func(*args))
    return recorder.op_uses(Evidence.EMULATED)


def test_an_op_use_says_everything_of_its_call() -> None:
    x, y = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float16).t().contiguous().t()
    recorder = Recorder()
    recorder.op(aten.add.Tensor, (x, y), {"alpha": 2}, torch.add(x, y, alpha=2))
    (use,) = recorder.op_uses(Evidence.EMULATED)
    assert use == OpUse(
        op="aten::add.Tensor",
        inputs=[TensorMeta("float32", (2, 3), (3, 1), "cpu"), TensorMeta("float16", (2, 3), (1, 2), "cpu")],
        outputs=[TensorMeta("float32", (2, 3), (3, 1), "cpu")],
        scalars={"alpha": 2},
        module="",
        source=use.source,
        evidence=Evidence.EMULATED,
        flops=6,
        bytes=24 + 12 + 24,
    )
    assert use.source.startswith("tests/trace/test_recorder.py:")


def test_a_model_that_was_recorded_can_be_let_go() -> None:
    model = torch.nn.Linear(2, 2)
    with record(model) as recorder:
        model(torch.ones(1, 2))
    there = weakref.ref(model)
    del model, recorder
    gc.collect()
    assert there() is None


def test_numbers_of_different_types_are_different_uses() -> None:
    x = torch.ones(2, dtype=torch.int64)
    uses = uses_of(*((aten.mul.Tensor, x, number) for number in (1, 1.0, True, 1, 1.0, True)))
    assert [(use.scalars["other"], use.count, use.outputs[0].dtype) for use in uses] == [
        (1, 2, "int64"),
        (1.0, 2, "float32"),
        (True, 2, "int64"),
    ]
    assert [type(use.scalars["other"]) for use in uses] == [int, float, bool]


def test_nan_is_one_use_however_often_it_comes() -> None:
    x = torch.ones(2)
    (use,) = uses_of(*((aten.mul.Tensor, x, float("nan")) for _ in range(3)))
    assert (use.count, use.scalars) == (3, {"other": "nan"})


@pytest.mark.parametrize(
    ("func", "args", "scalars"),
    [
        (
            aten.masked_fill.Scalar,
            (torch.ones(2), torch.ones(2, dtype=torch.bool), float("-inf")),
            {"value": "-inf"},
        ),
        (aten.mul.Tensor, (torch.ones(2), 1 + 2j), {"other": "1+2j"}),
        (aten._to_copy.default, (torch.ones(2), torch.float16), {"dtype": "float16"}),
        (
            aten.clone.default,
            (torch.ones(1, 2, 2, 2), torch.channels_last),
            {"memory_format": "channels_last"},
        ),
        (aten.cat.default, ([torch.ones(1), torch.ones(2)],), {"tensors": ["tensor", "tensor"]}),
        (aten.clamp.Tensor, (torch.ones(2), None, torch.ones(2)), {"min": None}),
        (aten.sum.dim_IntList, (torch.ones(2, 2), [0, 1]), {"dim": [0, 1]}),
        (
            aten.index.Tensor,
            (torch.ones(2, 3), [None, torch.tensor([1])]),
            {"indices": [None, "tensor"]},
        ),
    ],
)
def test_scalars_are_json_and_keep_the_places_of_tensors(
    func: Any, args: tuple[Any, ...], scalars: dict[str, Any]
) -> None:
    names = [argument.name for argument in func._schema.arguments if argument.kwarg_only]
    positional = len(func._schema.arguments) - len(names)
    kwargs = dict(zip(names, args[positional:], strict=False)) if func is not aten._to_copy.default else {}
    if func is aten._to_copy.default:
        args, kwargs = args[:1], {"dtype": args[1]}
    elif func is aten.clone.default:
        args, kwargs = args[:1], {"memory_format": args[1]}
    recorder = Recorder()
    recorder.op(func, args, kwargs, func(*args, **kwargs))
    (use,) = recorder.op_uses()
    assert use.scalars == scalars
    assert msgspec.json.decode(msgspec.json.encode(use), type=OpUse) == use


def test_a_default_given_in_full_is_the_same_use() -> None:
    """The dispatcher leaves trailing defaults out, an engine written in Python may not."""
    x = torch.ones(2)
    recorder = Recorder()
    for kwargs in ({}, {"alpha": 1}):
        recorder.op(aten.add.Tensor, (x, x), kwargs, x)
    assert {msgspec.json.encode(use.scalars) for use in recorder.op_uses()} == {b"{}"}


def test_results_whose_shape_follows_from_values_are_told_apart() -> None:
    masks = [torch.tensor(mask) for mask in ([1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0])]
    uses = uses_of(*((aten.nonzero.default, mask) for mask in masks))
    assert {use.outputs[0].shape: use.count for use in uses} == {(2, 1): 2, (1, 1): 1, (0, 1): 1}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
def test_tensors_without_strides_are_recorded_at_unknown_cost() -> None:
    sparse = torch.eye(3).to_sparse_csr()
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    dense = torch.ones(3, 2)
    with torch.no_grad(), record() as recorder:
        sparse @ dense
        nested * 2
    product = next(use for use in recorder.op_uses() if use.op == "aten::mm")
    assert (product.inputs[0].shape, product.inputs[0].strides) == ((3, 3), ())
    assert (product.flops, product.bytes) == (None, None)
    assert "aten::mul.Tensor" in {use.op for use in recorder.op_uses()}


def test_no_tensor_is_kept_alive() -> None:
    import weakref

    with record() as recorder:
        x = torch.ones(100)
        y = x + 1
        dead = [weakref.ref(x), weakref.ref(y)]
        del x, y
    assert [ref() for ref in dead] == [None, None]
    assert len(recorder.op_uses()) == 2


def test_beyond_the_limit_calls_are_counted_but_not_itemised() -> None:
    with record(limit=3) as recorder:
        for size in range(1, 6):
            torch.ones(size).exp()
    assert [use.op for use in recorder.op_uses()] == ["aten::ones", "aten::exp", "aten::ones"]
    assert recorder.dropped == 7


def test_flags_of_the_device_stay_with_their_use() -> None:
    x = torch.ones(2)
    recorder = Recorder()
    for func, flags in ((aten.exp.default, 1), (aten.sin.default, 0), (aten.exp.default, 4)):
        recorder.op(func, (x,), {}, func(x), flags)
    assert [(use.op, use.count, flags) for use, flags in recorder.flagged_uses(Evidence.EMULATED)] == [
        ("aten::exp", 2, 5),
        ("aten::sin", 1, 0),
    ]


@pytest.mark.parametrize("name", ZOO)
def test_a_recorded_use_can_be_run_again(name: str) -> None:
    """Rebuilt from metadata alone, every op of the zoo gives results of the recorded dtypes and shapes."""
    run = ZOO[name]()
    with torch.no_grad(), record() as recorder:
        run()

    def zeros(meta: TensorMeta) -> torch.Tensor:
        return torch.empty_strided(meta.shape, meta.strides, dtype=getattr(torch, meta.dtype)).zero_()

    for use in recorder.op_uses():
        if {"nonzero", "masked_select", "set_"} & set(use.op.removeprefix("aten::").split(".")):
            continue  # the result depends on values; a storage is not an argument that can be written down
        func, args, kwargs = rebuild(use, zeros)
        with torch.no_grad():
            result = func(*args, **kwargs)
        wanted = tuple((meta.dtype, meta.shape, meta.strides) for meta in use.outputs)
        if use.op == "aten::index.Tensor" and any(meta.dtype == "bool" for meta in use.inputs[1:]):
            continue
        assert metas(result) == wanted, use


def test_rebuild_names_an_op_that_is_not_there() -> None:
    with pytest.raises(LookupError, match="aten::not_an_op"):
        rebuild(OpUse(op="aten::not_an_op.x", inputs=[]), lambda _: None)
