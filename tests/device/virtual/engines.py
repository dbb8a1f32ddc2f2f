"""One use of a model in both engines: results against the plain CPU, ops against each other."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from mpsprobe.device.virtual.memoryless.engine import MemorylessKernels
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import emulate, predict

#: Tensors larger than this have no values in `predict` here: the models are small, and this tests those without.
_FLOAT_LIMIT = 256


class _Ops(Quiet):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.seen[str(func)] += 1


def check_both_engines(
    build: Callable[[], Any],
    run: Callable[[Any, str], list[torch.Tensor]],
    record: Callable[[str, object], None],
    *,
    moved: bool = False,
) -> None:
    """Build and use a model on the CPU, emulated and predicted.

    Args:
        build: makes the model; the seed is set before.
        run: uses it on a device; its results, on the host.
        record: where the figures go (pytest's `record_property`).
        moved: predict with a model that was built on the CPU and moved, not built on the device.
    """
    torch.manual_seed(0)
    model = build()
    torch.manual_seed(1)
    started = time.process_time()
    expected = run(copy.deepcopy(model), "cpu")
    record("cpu s", time.process_time() - started)

    real = _Ops()
    with emulate(fallback=False, observer=real) as session:
        on_device = copy.deepcopy(model).to("mps")
        real.seen.clear()
        torch.manual_seed(1)
        started = time.process_time()
        got = run(on_device, "mps")
        record("emulate s", time.process_time() - started)
        del on_device
    assert session.findings == []
    assert len(got) == len(expected)
    difference = max((_difference(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)
    record("difference", difference)
    assert difference == 0

    memoryless = _Ops()
    with predict(fallback=False, observer=memoryless) as prediction:
        assert isinstance(prediction.kernels, MemorylessKernels)
        prediction.kernels.float_limit = _FLOAT_LIMIT
        torch.manual_seed(0)
        with torch.device("cpu" if moved else "mps"):
            on_device = build().to("mps")
        memoryless.seen.clear()
        started = time.process_time()
        run(on_device, "mps")
        record("predict s", time.process_time() - started)
        del on_device
    assert prediction.findings == []
    record("ops", sum(real.seen.values()))
    record("ops differ by", sum(((real.seen - memoryless.seen) + (memoryless.seen - real.seen)).values()))
    record("assumptions", len(prediction.assumptions))
    # assumed values may lead another way through data-dependent code (routing, stopping), not to other kinds of ops
    missed = {op for op in real.seen if op not in memoryless.seen}
    assert not missed or prediction.assumptions, missed


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if torch.equal(a.isnan(), b.isnan()) and a.numel():
        return (a.nan_to_num().double() - b.nan_to_num().double()).abs().max().item()
    return 0.0 if not a.numel() else float("inf")
