"""The recorder on a real device (the CPU) against an independent log of the same calls."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpsprobe.run import OpUse
from mpsprobe.trace.dispatch import record
from tests.trace.zoo import ZOO, Call, Log, llama, metas


def calls_of(uses: list[OpUse]) -> Counter[Call]:
    """Calls by name, tensor arguments and results: what the plain log knows of them."""
    calls: Counter[Call] = Counter()
    for use in uses:
        inputs = tuple((meta.dtype, meta.shape, meta.strides) for meta in use.inputs)
        outputs = tuple((meta.dtype, meta.shape, meta.strides) for meta in use.outputs)
        calls[use.op, inputs, outputs] += use.count
    return calls


@pytest.mark.parametrize("name", ZOO)
def test_the_stream_is_that_of_a_plain_log(name: str) -> None:
    run = ZOO[name]()
    with torch.no_grad():
        run()  # whatever happens at the first call alone, such as a lazily filled cache
        with Log() as log:
            run()
        with record() as recorder:
            run()
    uses = recorder.op_uses()
    assert calls_of(uses) == Counter(log.calls)
    assert list(dict.fromkeys(use.op for use in uses)) == list(dict.fromkeys(call[0] for call in log.calls))
    assert recorder.dropped == 0


@pytest.mark.parametrize("name", ["llama", "t5", "mamba", "convolutional", "unet", "lstm"])
def test_inference_mode_gives_the_ops_of_no_grad(name: str) -> None:
    run = ZOO[name]()
    with torch.no_grad():
        run()
        with record() as plain:
            expected = run()
    with torch.inference_mode(), record() as composite:
        result = run()
    wanted, seen = calls_of(plain.op_uses()), calls_of(composite.op_uses())
    # Without autograd there is nothing to detach from: these views of the same tensor may differ.
    for call in (wanted - seen) + (seen - wanted):
        assert call[0] in ("aten::detach", "aten::detach_", "aten::alias"), call
    assert metas(result) == metas(expected)


def test_recording_changes_no_result() -> None:
    model = llama()
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad():
        expected = model(tokens).logits
        with record(model):
            result = model(tokens).logits
    assert torch.equal(result, expected)


def test_counts_calls_of_one_signature() -> None:
    x = torch.ones(2, 3)
    with record() as recorder:
        for _ in range(5):
            x.exp()
    assert [(use.op, use.count) for use in recorder.op_uses()] == [("aten::exp", 5)]


def test_training_is_recorded_with_its_backward_pass() -> None:
    model = nn.Linear(3, 2)
    with record(model) as recorder, Log() as log:
        model(torch.ones(4, 3)).sum().backward()
    assert calls_of(recorder.op_uses()) == Counter(log.calls)
    assert any(use.op == "aten::mm" and use.module == "" for use in recorder.op_uses())


class Doubled(torch.Tensor):
    """Stands for twice the tensor inside, as a quantised tensor stands for what it unpacks to."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls: type[Doubled], inside: torch.Tensor) -> Doubled:
        self: Doubled = torch.Tensor._make_wrapper_subclass(cls, inside.shape, dtype=inside.dtype)
        self.inside = inside
        return self

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        plain = [arg.inside * 2 if isinstance(arg, Doubled) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


def test_a_tensor_subclass_is_seen_as_the_ops_it_is_made_of() -> None:
    doubled = Doubled(torch.ones(3))
    with torch.no_grad(), record() as recorder:
        result = torch.exp(doubled)
    assert torch.equal(result, torch.full((3,), 2.0).exp())
    assert [use.op for use in recorder.op_uses()] == ["aten::mul.Tensor", "aten::exp"]


def test_a_higher_order_op_is_recorded_by_name() -> None:
    from torch._higher_order_ops.flex_attention import flex_attention

    q = torch.ones(1, 2, 16, 8)
    nothing = ((), ())
    mask = torch.nn.attention.flex_attention._create_empty_block_mask(q, q).as_tuple()
    with torch.no_grad(), record() as recorder:
        flex_attention(q, q, q, lambda score, *_: score, mask, 1.0, {}, *nothing)
    (use,) = (use for use in recorder.op_uses() if use.op.startswith("higher_order::"))
    assert use.op == "higher_order::flex_attention"
    assert use.flops == 2 * (2 * 1 * 2 * 16 * 16 * 8)


def test_an_op_that_raises_is_counted_and_named() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    with torch.no_grad(), record(model) as recorder, pytest.raises(RuntimeError, match="mat1 and mat2"):
        model(torch.ones(4, 3))
    ((use, error),) = recorder.failures()
    assert (use.op, use.module, use.outputs) == ("aten::addmm", "1", [])
    assert "mat1 and mat2" in error


def test_threads_that_run_modules_are_recorded_too() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.ones(2, 3)

    def work() -> None:
        with torch.no_grad():
            for _ in range(50):
                model(x)

    with record(model) as recorder:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join()
    uses = {use.op: use for use in recorder.op_uses()}
    assert uses["aten::addmm"].count == uses["aten::relu"].count == 5 * 50
    assert (uses["aten::addmm"].module, uses["aten::relu"].module) == ("0", "1")
    assert len(recorder.op_uses()) == len(uses)  # threads do not multiply the uses


def test_generate_in_a_thread_as_a_streamer_does_it() -> None:
    model = llama()
    tokens = torch.arange(3, 13)[None]

    def work() -> None:
        model.generate(tokens, max_new_tokens=3, do_sample=False, pad_token_id=0)

    with record(model) as recorder:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    attention = [use for use in recorder.op_uses() if "scaled_dot_product" in use.op]
    assert sum(use.count for use in attention) == 2 * 3  # layers x steps
    assert {use.module for use in attention} == {f"model.layers.{layer}.self_attn" for layer in range(2)}


def test_nothing_stays_when_it_is_over() -> None:
    call = nn.Module.__call__
    with pytest.raises(KeyError), record():
        raise KeyError
    assert nn.Module.__call__ is call
    assert torch._C._len_torch_dispatch_stack() == 0


def test_two_recorders_at_once_see_the_same() -> None:
    model = llama()
    tokens = torch.arange(3, 13)[None]
    with torch.no_grad(), record(model) as outer, record(model) as inner:
        model(tokens)
    assert [(use.op, use.module, use.source, use.count) for use in outer.op_uses()] == [
        (use.op, use.module, use.source, use.count) for use in inner.op_uses()
    ]


def test_a_compiled_model_can_be_recorded() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad(), record(model) as recorder:
        result = compiled(torch.ones(2, 3))
    assert torch.equal(result, model(torch.ones(2, 3)))
    assert {"aten::addmm", "aten::relu"} <= {use.op for use in recorder.op_uses()}


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.diff(dim=-2),
        lambda x: torch.chunk(x.mT, 2)[0],
        lambda x: torch.stack([x, x]).unbind(0)[0],
        lambda x: x.expand(2, *x.shape).flatten(0, 1),
        lambda x: torch.einsum("bij,bkj->bik", x, x),
    ],
    ids=["diff", "chunk", "unbind", "flatten", "einsum"],
)
def test_composite_ops_on_ordinary_tensors_under_inference_mode(call: Callable[[Tensor], Tensor]) -> None:
    """A hook that lets a view be made twice breaks the target it watches."""
    x = torch.randn(2, 5, 3)
    with torch.inference_mode():
        expected = call(x)
        with record():
            assert torch.equal(call(x), expected)


_COMPILER = """
import sys
import torch
from mpsprobe.trace.dispatch import eager, record

def backend(graph, inputs):
    compiled.append(graph)
    return graph.forward

def double(x):
    return x * 2

compiled = []
with record() as recorder:
    with eager():
        assert "torch._dynamo" not in sys.modules, "nobody asked for the compiler"
        torch.ones(2) + 1
        torch.compile(double, backend=backend)(torch.ones(2))
    torch.compile(double, backend=backend)(torch.ones(3))
print([use.op for use in recorder.op_uses()], len(compiled))
torch.compile(double, backend=backend)(torch.ones(4))
print(len(compiled))
"""


def test_the_compiler_is_not_imported_and_waits_once_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ops, compiled = done.stdout.splitlines()
    assert "aten::mul" in ops
    assert ops.endswith(" 0"), "what is compiled would not reach the recorder"
    assert compiled == "1", "afterwards it compiles again"
