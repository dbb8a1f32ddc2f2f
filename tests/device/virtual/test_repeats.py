"""Repeated calls on memoryless tensors: the same results and record as if each were the first, at a fraction."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpsprobe.device.virtual.memoryless.engine import MemorylessKernels
from mpsprobe.device.virtual.observer import OpFlag, Quiet
from mpsprobe.device.virtual.session import MemorylessSession, predict
from mpsprobe.run import Evidence
from mpsprobe.trace.dispatch import RecorderObserver
from mpsprobe.trace.recorder import Recorder

pytestmark = pytest.mark.own_process

_WIDE = (300, 1000)


def _is_memoryless(session: MemorylessSession, tensor: Tensor) -> bool:
    assert isinstance(session.kernels, MemorylessKernels)
    return session.kernels.memoryless.has(tensor)


class _Told(Quiet):
    def __init__(self) -> None:
        self.first: list[tuple[str, int]] = []
        self.repeated: list[object] = []

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.first.append((str(func), flags))

    def again(self, kind: object, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self.repeated.append(kind)


class _AlwaysFirst(RecorderObserver):
    """A recorder that is told of each call as if it were the first of its kind."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.again = MethodType(Quiet.again, self)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y, _w: x + y,
        lambda x, _y, _w: x * 2,
        lambda x, _y, _w: x * 2.5,
        lambda x, y, _w: (x.t() + y.t(), x - y.t().reshape(_WIDE)),
        lambda x, _y, _w: x.to(torch.float32).pow(2).mean(-1, keepdim=True),
        lambda x, _y, w: nn.functional.linear(x, w),
        lambda x, y, _w: torch.cat([x, y], dim=-1),
        lambda x, _y, _w: torch.native_layer_norm(x, [1000], None, None, 1e-5),
        lambda x, y, _w: x.add_(y).mul_(0.5),
        lambda x, _y, _w: torch.empty_like(x, dtype=torch.float16),
        lambda x, _y, _w: x.sum(0).to(torch.float32).to(torch.bfloat16),
        lambda x, y, _w: nn.functional.scaled_dot_product_attention(*[one[None, None] for one in (x, y, x)]),
    ],
)
def test_results_have_the_form_that_pytorch_gives(call: Callable[..., Any]) -> None:
    def run(device: str) -> Any:
        x, y = (torch.empty(_WIDE, dtype=torch.bfloat16, device=device) for _ in range(2))
        result = call(x, y, torch.empty(500, 1000, dtype=torch.bfloat16, device=device))
        return result if isinstance(result, tuple) else (result,)

    expected = [(one.shape, one.stride(), one.dtype) for one in run("meta")]
    told = _Told()
    with predict(observer=told) as session, torch.inference_mode():
        rounds = [run("mps") for _ in range(3)]
        for results in rounds:
            assert [(one.shape, one.stride(), one.dtype) for one in results] == expected
            assert all(_is_memoryless(session, one) for one in results)
        places = [one.data_ptr() for results in rounds for one in results]
        assert len(set(places)) == len(places)
    assert told.repeated


def test_numbers_of_different_types_are_different_kinds() -> None:
    with predict() as session:
        x = torch.empty(5_000_000, dtype=torch.int32, device="mps")
        assert _is_memoryless(session, x)
        for _ in range(2):
            assert [(x + number).dtype for number in (1, 1.0, True)] == [
                torch.int32,
                torch.float32,
                torch.int32,
            ]


def test_what_is_refused_is_found_at_every_call() -> None:
    with predict() as session:
        x = torch.empty(_WIDE, device="mps")
        for _ in range(3):
            x.to(torch.float64)
        assert [finding.kind for finding in session.findings].count("dtype") == 3


def test_a_fallback_is_told_at_every_call() -> None:
    told = _Told()
    with predict("2.3", fallback=True, observer=told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = torch.empty(1000, 1000, device="mps")
        for _ in range(3):
            torch.linalg.qr(x)
    fallbacks = [name for name, flags in told.first if flags & OpFlag.FALLBACK]
    assert fallbacks == ["aten.linalg_qr.out"] * 3


def test_assumed_values_are_told_at_every_call() -> None:
    told = _Told()
    with predict(observer=told):
        table = torch.empty(1000, 1000, device="mps")
        assumed, known = table.argmax(-1), torch.zeros(1000, dtype=torch.int64, device="mps")
        for index in (known, assumed, known, assumed):
            nn.functional.embedding(index, table)
    flags = [
        flags & OpFlag.ASSUMED for name, flags in told.first if "index_select" in name or "embedding" in name
    ]
    assert flags == [0, OpFlag.ASSUMED, OpFlag.ASSUMED]
    assert len(told.repeated) == 1


def test_a_whole_tensor_loses_memory_and_a_part_keeps_it() -> None:
    with predict() as session:
        source = torch.empty(_WIDE, device="mps")
        for _ in range(3):
            whole, larger = torch.zeros(1000, device="mps"), torch.zeros(2, 1000, device="mps")
            whole.copy_(source[0])
            larger[0].copy_(source[0])
            assert _is_memoryless(session, whole)
            assert not _is_memoryless(session, larger)


def test_memory_is_counted_at_every_call() -> None:
    with predict() as session:
        x = torch.empty(1 << 20, dtype=torch.float32, device="mps")
        kept = [x * 2 for _ in range(5)]
        assert session.memory.allocated() == 6 << 22
        del kept
        assert session.memory.allocated() == 1 << 22


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(512, 512, dtype=torch.bfloat16) for _ in range(3))
        self.norm = nn.LayerNorm(512, dtype=torch.bfloat16)

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = x + self.norm(layer(x).to(torch.float32).sigmoid().to(x.dtype))
        return x, torch.cat([cache, x], dim=0)


def _recorded(observe: Callable[[Recorder], RecorderObserver]) -> Recorder:
    with predict(observer=Quiet()) as session, torch.inference_mode():
        with torch.device("mps"):
            model, x = _Layers(), torch.empty(200, 512, dtype=torch.bfloat16)
            cache = torch.empty(0, 512, dtype=torch.bfloat16)
        recorder = Recorder(model, ordered=True)
        session.kernels.observer = observe(recorder)
        with recorder.paths.following():
            for _ in range(4):
                _, cache = model(x, cache)
            model(x[:1], cache)
    return recorder


def test_the_record_is_as_if_every_call_were_the_first() -> None:
    short, full = _recorded(RecorderObserver), _recorded(_AlwaysFirst)
    assert short.op_uses(Evidence.PREDICTED) == full.op_uses(Evidence.PREDICTED)
    assert short.sequence() == full.sequence()
    assert sum(use.count for use in short.op_uses()) == len(short.sequence())


def test_a_repeated_call_takes_few_calls_of_python() -> None:
    # Time cannot be tested; the number of Python calls that an op takes is what it follows from. The first of a
    # kind takes some 40.
    counted = 0

    def count(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal counted
        counted += event == "call"

    observer = RecorderObserver(Recorder(ordered=True))
    with predict(memory_gb=1 << 20, observer=observer), torch.inference_mode():
        x, y = torch.empty(_WIDE, device="mps"), torch.empty(_WIDE, device="mps")
        torch.empty(1 << 40, dtype=torch.uint8, device="mps")  # a peak that nothing below comes near
        for _ in range(3):
            x + y
        sys.setprofile(count)
        try:
            for _ in range(100):
                x + y
        finally:
            sys.setprofile(None)
    assert counted <= 700
