"""Convolutions by shape, against published timings."""

from __future__ import annotations

import math

import pytest

from mpsprobe.forecast.grounds import share_of
from mpsprobe.forecast.machine import of_gpu, of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import WAIT, Trace, stages
from mpsprobe.knowledge import speed
from mpsprobe.mac import named
from mpsprobe.run import OpUse, OpVerdict, TensorMeta
from mpsprobe.trace.formulas import add_costs


def _conv(n: int, side: int, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> OpUse:
    out = (side + (2 if (kernel, stride) == (3, 1) else 0) - kernel) // stride + 1

    def tensor(*shape: int) -> TensorMeta:
        return TensorMeta(
            "float32", shape, tuple(math.prod(shape[k + 1 :]) for k in range(len(shape))), "mps:0"
        )

    use = OpUse(
        op="aten::_mps_convolution",
        inputs=[tensor(n, before, side, side), tensor(after, before // groups, kernel, kernel)],
        outputs=[tensor(n, after, out, out)],
        count=1,
        verdict=OpVerdict.NATIVE,
    )
    add_costs(use)
    return use


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (_conv(1, 64, 32, 32, 3, 1), "conv-3x3"),
        (_conv(1, 64, 32, 32, 3, 2), ""),
        (_conv(1, 64, 32, 32, 1, 1), ""),
        (_conv(1, 64, 32, 32, 3, 1, groups=32), ""),
        (_conv(1, 224, 3, 64, 7, 2), "conv-few"),
        (_conv(1, 224, 3, 64, 1, 1), ""),
    ],
)
def test_a_convolution_is_of_a_kind_by_its_shapes(use: OpUse, kind: str) -> None:
    assert share_of(use) == kind


@pytest.mark.parametrize(
    ("use", "published"),
    [
        # github.com metalsim, camera update profile, section 4.3: an M4 Max with torch 2.14
        (_conv(2048, 100, 3, 32, 8, 4), 3.6e-3),
        (_conv(2048, 24, 32, 64, 4, 2), 2.0e-3),
    ],
)
def test_strided_convolutions_take_what_was_published(use: OpUse, published: float) -> None:
    trace = Trace([use], [0, WAIT])
    told = timing(Work.of(trace, stages(trace)), of_mac(named("m4-max-40c-64"), "2.14")).per_sample
    assert told is not None
    expected = told.expected
    assert expected is not None
    assert published / 1.3 < expected < published * 1.3


def test_a_gpu_has_one_rate_for_all_convolutions() -> None:
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    machine = of_gpu(gpu)
    rates = {
        kind: machine.rate(kind, "float16", 1e9, 1e6) for kind in ("conv", "conv-3x3", "conv-few", "matmul")
    }
    assert rates["conv-3x3"] == rates["conv-few"] == rates["conv"] != rates["matmul"]
