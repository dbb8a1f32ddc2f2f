"""Models without memory: their ops are those of a real run, and what had to be assumed is listed."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import emulate, predict
from tests.device.virtual.llama import tiny_llama

pytestmark = pytest.mark.own_process


class _Ops(Quiet):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        shapes = tuple((tuple(a.shape), a.dtype) for a in args if isinstance(a, torch.Tensor))
        self.seen.append((str(func), shapes))


def test_memoryless_tensors_have_every_shape_and_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with predict(memory_gb=512) as session:
        x = torch.empty(100, 1 << 28, device="mps", dtype=torch.bfloat16)
        y = x[:, ::2] * 2
        assert (y.shape, y.dtype, y.device.type) == ((100, 1 << 27), torch.bfloat16, "mps")
        assert session.memory.allocated() == (100 * (1 << 28) + 100 * (1 << 27)) * 2
        del x, y
        assert session.memory.allocated() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_as_many_sessions_as_one_likes() -> None:
    # each reserves 16 TB, and a process has 128 TB of address space on x86-64
    for _ in range(10):
        with predict():
            torch.empty(1 << 20, device="mps").add_(1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: x.exponential_(),  # the draws of a sampler over a large vocabulary
        lambda x: x.exponential_(generator=torch.Generator("mps")),
        lambda x: x.normal_(),
        lambda x: x.uniform_(generator=torch.Generator("mps")),
        lambda x: x.bernoulli_(0.5),
        lambda x: x.cauchy_(),
        lambda x: x.log_normal_(),
        lambda x: x.geometric_(0.5),
        lambda x: x.random_(),
        lambda x: torch.randn(x.shape, device="mps", generator=torch.Generator("mps")),
        lambda x: torch.rand_like(x),
        lambda x: torch.bernoulli(x, generator=torch.Generator("mps")),
    ],
)
def test_drawn_numbers_need_no_memory(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with predict():
        x = torch.empty(1, 300_000, device="mps")
        assert draw(x).shape == x.shape


def test_small_and_whole_numbers_keep_their_values() -> None:
    with predict() as session:
        positions = torch.arange(1000, device="mps")
        mask = positions % 3 == 0
        assert mask.sum().item() == 334
        assert positions[mask].tolist()[-1] == 999
        assert torch.linspace(0, 1, 5, device="mps").tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert session.assumptions == []


def test_assumed_values_are_listed_with_what_depends_on_them() -> None:
    with predict() as session:
        logits = torch.randn(1000, 1000, device="mps")
        token = logits.argmax(-1)
        assert token[0].item() == 500
        if (logits > 0).any():
            raise AssertionError
        rows = logits.sum(-1).nonzero()
        assert rows.shape == (0, 1)
    found = {assumption.op: assumption for assumption in session.assumptions}
    assert found["aten::argmax"].value == "index n // 2"
    assert found["aten::argmax"].dependents[0].startswith(f"a value read by the host at {__file__}")
    assert found["aten::gt.Scalar"].value == "False"
    assert found["aten::gt.Scalar"].dependents  # any() of assumed values is assumed too
    assert found["aten::nonzero"].value == "no element"
    assert all(assumption.source.startswith(__file__) for assumption in session.assumptions)


def test_what_is_asked_of_all_values_is_assumed_to_hold() -> None:
    with predict() as session:
        x = torch.randn(1000, 1000, device="mps")
        assert (x >= 0).all()
        assert not (x < 0).any()
        assert (x.mean(-1)[:3] >= 0).all(-1).item()
        assert not torch.tensor([True, False], device="mps").all(), "known values decide"
    assert {"True", "False"} <= {one.value for one in session.assumptions}


@pytest.mark.parametrize("size", [8, 2048])
def test_operands_of_two_dtypes_are_refused_at_every_size(size: int) -> None:
    wide, narrow = torch.empty(size, size), torch.empty(size, size, dtype=torch.bfloat16)
    calls: list[Callable[..., torch.Tensor]] = [
        torch.mm,
        torch.nn.functional.linear,
        lambda x, w: torch.addmm(x[0], x, w),
    ]
    for call in calls:
        with pytest.raises(RuntimeError) as expected:
            call(wide[:8, :8], narrow[:8, :8])
        with predict(), pytest.raises(RuntimeError) as caught:
            call(wide.to("mps"), narrow.to("mps"))
        assert str(caught.value) == str(expected.value)


def test_failures_are_collected_all_at_once() -> None:
    with predict("2.13", memory_gb=8, fallback=False) as session:
        x = torch.empty(4000, 4000, device="mps")
        torch.linalg.eigh(x)
        x.double()
        x + torch.ones(4000)
        torch.empty(1 << 34, device="mps")
    assert [one.kind for one in session.findings] == ["missing-op", "dtype", "device", "buffer"]


def test_op_stream_equals_that_of_an_emulated_run() -> None:
    def stream(device: Any) -> list[Any]:
        ops = _Ops()
        with device(observer=ops), torch.device("mps"):
            model = tiny_llama(hidden_size=256, vocab_size=512)
            ids = torch.arange(3, 12)[None]
            ops.seen.clear()
            with torch.no_grad():
                model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        return ops.seen

    predicted, emulated = stream(predict), stream(emulate)
    assert predicted == emulated


def test_gradients_and_a_step() -> None:
    with predict() as session, torch.device("mps"):
        model = tiny_llama(hidden_size=256, vocab_size=512).train()
        ids = torch.arange(3, 12)[None]
        optimizer = torch.optim.AdamW(model.parameters())
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    assert session.findings == []


@pytest.mark.parametrize("direction", ["to host", "to device"])
def test_copies_between_host_and_memoryless(direction: str) -> None:
    with predict() as session:
        if direction == "to host":
            host = torch.randn(500, 500, device="mps").cpu()
            assert host.shape == (500, 500)
            assert not host.any()
            assert session.assumptions
        else:
            device = torch.ones(500, 500).to("mps")
            assert device.shape == (500, 500)
