"""Architectures from transformers in both engines: results against the plain CPU, ops against each other."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mpsprobe.device.virtual.emulate import emulate
from mpsprobe.device.virtual.ghost_kernels import GhostKernels
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.predict import predict
from tests.device.virtual.zoo import ZOO, Entry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of transformers about options of tiny configs
]


class _Ops(Quiet):
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.seen[str(func)] += 1


@pytest.mark.parametrize("entry", ZOO, ids=[entry.name for entry in ZOO])
def test_both_engines(entry: Entry, record_property: Callable[[str, object], None]) -> None:
    torch.manual_seed(0)
    model = entry.build()
    torch.manual_seed(1)
    expected = entry.run(copy.deepcopy(model), "cpu")

    real = _Ops()
    with emulate(fallback=False, observer=real):
        on_device = copy.deepcopy(model).to("mps")
        real.seen.clear()
        torch.manual_seed(1)
        got = entry.run(on_device, "mps")
        del on_device
    assert len(got) == len(expected)
    difference = max((_difference(a, b) for a, b in zip(got, expected, strict=True)), default=0.0)
    record_property("difference", difference)
    assert difference == 0

    ghostly = _Ops()
    with predict(fallback=False, observer=ghostly) as session:
        assert isinstance(session.kernels, GhostKernels)
        session.kernels.float_limit = 256
        torch.manual_seed(0)
        with torch.device("mps"):
            on_device = entry.build()
        ghostly.seen.clear()
        entry.run(on_device, "mps")
        del on_device
    assert session.findings == []
    record_property("ops", sum(real.seen.values()))
    record_property("ops differ by", sum(((real.seen - ghostly.seen) + (ghostly.seen - real.seen)).values()))
    record_property("assumptions", len(session.assumptions))
    # assumed values may lead another way through data-dependent code (routing, stopping), not to other kinds of ops
    missed = {op for op in real.seen if op not in ghostly.seen}
    assert not missed or session.assumptions, missed


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if torch.equal(a.isnan(), b.isnan()) and a.numel():
        return (a.nan_to_num().double() - b.nan_to_num().double()).abs().max().item()
    return 0.0 if not a.numel() else float("inf")
