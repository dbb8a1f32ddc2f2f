"""Kernels with a speed of their own, and forecasts of ops that nobody has measured, against published timings."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from mpsprobe.forecast.grounds import has_detour, share_of, unmeasured_kind
from mpsprobe.forecast.kinds import ConvShape, convolution_of
from mpsprobe.forecast.machine import of_gpu, of_mac
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import WAIT, Trace, stages
from mpsprobe.knowledge import speed
from mpsprobe.mac.catalogue import named
from mpsprobe.report.wording import unmeasured
from mpsprobe.run import OpUse, OpVerdict, TensorMeta, Timing
from mpsprobe.trace.formulas import add_costs


def _tensor(*shape: int, dtype: str = "float32") -> TensorMeta:
    return TensorMeta(dtype, shape, tuple(math.prod(shape[k + 1 :]) for k in range(len(shape))), "mps:0")


def _use(op: str, inputs: list[TensorMeta], *outputs: TensorMeta, **scalars: Any) -> OpUse:
    use = OpUse(
        op=op, inputs=inputs, outputs=list(outputs), count=1, verdict=OpVerdict.NATIVE, scalars=scalars
    )
    add_costs(use)
    return use


def _timing(mac: str, release: str, *uses: OpUse) -> Timing:
    """Return the forecast of calls and the wait for them, as mlx-benchmark times an op."""
    trace = Trace(list(uses), [*range(len(uses)), WAIT])
    return timing(Work.of(trace, stages(trace)), of_mac(named(mac, "15.5"), release))


def _seconds(mac: str, release: str, *uses: OpUse) -> float:
    span = _timing(mac, release, *uses).per_sample
    assert span is not None
    assert span.expected is not None
    return span.expected


def _rows_picked() -> OpUse:
    rows, index = _tensor(64, 256), _tensor(1_000_000, dtype="int64")
    return _use("aten::index.Tensor", [rows, index], _tensor(1_000_000, 256))


def _sorted(*shape: int) -> OpUse:
    return _use("aten::sort", [_tensor(*shape)], _tensor(*shape), _tensor(*shape, dtype="int64"))


def _convolved(groups: int = 1, dilation: int = 1) -> OpUse:
    x, weight = _tensor(1, 64, 1, 4096), _tensor(64, 64 // groups, 1, 3)
    scalars = {"groups": groups, "dilation": [1, dilation], "stride": [1, 1], "padding": [0, 1]}
    return _use("aten::_mps_convolution", [x, weight], _tensor(1, 64, 1, 4096), **scalars)


@pytest.mark.parametrize(
    ("mac", "release", "milliseconds"),
    [("m3-ultra-60c-96", "2.6", 21.14), ("m4-pro-20c-24", "2.6", 70.28), ("m1-ultra-48c-64", "2.8", 14.92)],
)
def test_rows_that_an_index_picks(mac: str, release: str, milliseconds: float) -> None:
    """Gather of mlx-benchmark, 64 x 256 by 1,000,000; its M4, M4 Max and M3 gave the shares."""
    assert _seconds(mac, release, _rows_picked()) == pytest.approx(milliseconds * 1e-3, rel=0.5)


@pytest.mark.parametrize(
    ("mac", "release", "shape", "milliseconds"),
    [
        ("m3-ultra-60c-96", "2.6", (64, 128, 1024), 4.48),
        ("m4-pro-20c-24", "2.6", (64, 128, 1024), 10.24),
        ("m5-pro-20c-24", "2.13", (16, 128256), 1.1143),
        ("m5-pro-20c-24", "2.13", (1, 1048576), 0.7538),
    ],
)
def test_a_sort_of_rows(mac: str, release: str, shape: tuple[int, ...], milliseconds: float) -> None:
    """Sort of mlx-benchmark; pull request 182242 without a wait for each call."""
    found = _seconds(mac, release, _sorted(*shape))
    if release == "2.13":
        found -= of_mac(named(mac, "15.5"), release).host.wait
    assert found == pytest.approx(milliseconds * 1e-3, rel=0.45)


def test_a_3d_convolution_by_mpsgraph_takes_three_times_as_long() -> None:
    """Pull request 188802: factors of 1.2 to 3.6, 2.8 in the median."""
    x, weight = _tensor(8, 128, 8, 28, 28), _tensor(128, 128, 3, 3, 3)
    use = _use("aten::_mps_convolution", [x, weight], x, groups=1, dilation=[1, 1, 1], stride=[1, 1, 1])
    assert share_of(use) == "conv-3d"
    graph, metal = (_seconds("m4-max-40c-64", release, use) for release in ("2.13", "2.14"))
    assert 1.2 < graph / metal < 4


def test_few_groups_of_a_wide_kernel_are_slow_on_cuda() -> None:
    """HuBERT-large, 10 s: 16 kernels of 4.4 ms in all on an H200, by torch.profiler."""
    x, weight = _tensor(1, 1024, 1, 499), _tensor(1024, 64, 1, 128)
    use = _use("aten::_mps_convolution", [x, weight], x, groups=16, dilation=[1, 1], stride=[1, 1])
    assert share_of(use) == "conv-groups"
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    assert 8.39e9 / (of_gpu(gpu).rate("conv-groups", "float32", 8.39e9, 1e7) or 1) == pytest.approx(
        4.4e-3, rel=0.2
    )
    mac = of_mac(named("m4-max-40c-64", "15.5"), "2.13")
    assert mac.rate("conv-groups", "float32", 1e9, 1e6) == mac.rate("conv", "float32", 1e9, 1e6)
    alone = _use("aten::_mps_convolution", [x, _tensor(1024, 1, 1, 31)], x, groups=1024, dilation=[1, 1])
    assert not share_of(alone)


def test_attention_on_cuda_is_slower_than_matmuls() -> None:
    """An H200: 29 to 35 TFLOP/s in float32, 290 to 485 in bfloat16, where matmuls reach 51 and 809."""
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    machine = of_gpu(gpu)
    for dtype, low, high in (("float32", 27e12, 35e12), ("bfloat16", 290e12, 485e12)):
        assert low < (machine.rate("attention", dtype, 1e10, 1e8) or 0.0) < high


def _backward(shape: tuple[int, ...], wanted: str) -> OpUse:
    batch, before, size, after, kernel, stride = shape
    out = (size - kernel) // stride + 1
    grad, x = _tensor(batch, after, out, out), _tensor(batch, before, size, size)
    weight = _tensor(after, before, kernel, kernel)
    return _use(
        "aten::convolution_backward",
        [grad, x, weight],
        x if wanted == "data" else weight,
        output_mask=[wanted == "data", wanted == "weight", False],
        stride=[stride, stride],
        transposed=False,
        groups=1,
    )


@pytest.mark.parametrize(
    ("shape", "milliseconds"),
    [((3, 100, 32, 8, 4), 23.3), ((32, 24, 64, 4, 2), 6.4), ((64, 11, 64, 3, 1), 1.6)],
)
def test_a_data_gradient_counts_the_zeros_of_the_stride(shape: tuple[int, ...], milliseconds: float) -> None:
    """Metalsim, section 4.3: an M4 Max of 40 cores, torch 2.14, batches of 2048."""
    found = _seconds("m4-max-40c-64", "2.14", _backward((2048, *shape), "data"))
    assert found == pytest.approx(milliseconds * 1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("mac", "release", "shape", "milliseconds"),
    [
        ("m4-max-40c-64", "2.14", (2048, 3, 100, 32, 8, 4), 8.9),
        ("m4-max-40c-64", "2.14", (2048, 32, 24, 64, 4, 2), 4.3),
        ("m4-max-40c-64", "2.14", (2048, 64, 11, 64, 3, 1), 3.8),
        ("m5-pro-20c-24", "2.13", (8, 128, 34, 128, 3, 1), 0.838),
        ("m5-pro-20c-24", "2.13", (16, 64, 58, 64, 3, 1), 2.729),
        ("m5-pro-20c-24", "2.13", (4, 256, 18, 256, 3, 1), 0.277),
        ("m5-pro-20c-24", "2.13", (32, 32, 66, 32, 3, 1), 3.668),
    ],
)
def test_a_weight_gradient_takes_a_multiple_of_the_forward_pass(
    mac: str, release: str, shape: tuple[int, ...], milliseconds: float
) -> None:
    """Metalsim and pull request 193191: they scatter by a factor of 3 about a quarter of the rate of matmuls."""
    found = _seconds(mac, release, _backward(shape, "weight")) - of_mac(named(mac, "15.5"), release).host.wait
    assert 1 / 3 < milliseconds * 1e-3 / found < 3


def test_a_transposed_convolution_is_a_data_gradient() -> None:
    """An upsampling of a vocoder: `_mps_convolution_transpose` calls the function of data gradients."""
    x, weight, result = _tensor(1, 512, 1, 100), _tensor(512, 256, 1, 16), _tensor(1, 256, 1, 800)
    use = _use("aten::_mps_convolution_transpose", [x, weight], result, stride=[1, 8], groups=1)
    assert convolution_of(use) == ConvShape(data=8 * 2 * 100 * 512 * 256 * 16)
    assert convolution_of(_convolved()) == ConvShape()
    assert not unmeasured_kind(use)


def _along(samples: int) -> OpUse:
    """Return a 1-D convolution as MPS computes it: mlx-benchmark times one of 1000 samples."""
    return _use(
        "aten::_mps_convolution",
        [_tensor(16, 80, 1, samples), _tensor(128, 80, 1, 11)],
        _tensor(16, 128, 1, samples - 10),
        groups=1,
        stride=[1, 1],
        dilation=[1, 1],
    )


@pytest.mark.parametrize(
    ("mac", "release", "milliseconds"),
    [("m3-10c-16", "2.9", 1.79), ("m4-pro-20c-24", "2.6", 0.84), ("m4-max-40c-128", "2.5", 0.63)],
)
def test_a_short_1d_convolution_is_as_fast_as_2d(mac: str, release: str, milliseconds: float) -> None:
    """TristanBilot/mlx-benchmark, Conv1d, dim=16x1000x80 dim=128x11x80: one call and the wait for it."""
    assert _seconds(mac, release, _along(1000)) == pytest.approx(milliseconds * 1e-3, rel=0.3)


@pytest.mark.parametrize(
    ("batch", "samples", "milliseconds"), [(8, 160000, 1.61), (4, 1320000, 5.76), (8, 480000, 4.10)]
)
def test_an_inverse_stft_sums_windows_one_by_one(batch: int, samples: int, milliseconds: float) -> None:
    """Mlx-spectro, README: `torch.istft` on an M4 Max with 2.10; transform and sum are most of it."""
    frames = samples // 256 + 1
    windows = _tensor(batch, frames, 1024)
    spectrum = _tensor(batch, frames, 513, dtype="complex64")
    wait = of_mac(named("m4-max-40c-64", "15.5"), "2.10").host.wait
    kernels = sum(
        _seconds("m4-max-40c-64", "2.10", use) - wait
        for use in (
            _use("aten::_fft_c2r", [spectrum], windows),
            _use("aten::unfold_backward", [windows], _tensor(batch, samples)),
        )
    )
    assert 0.6 < kernels / (milliseconds * 1e-3) < 1


@pytest.mark.parametrize(
    ("use", "kind"),
    [
        (_convolved(), ""),
        (_convolved(groups=64), "convolutions in groups"),
        (_convolved(dilation=3), "dilated convolutions"),
        (_use("aten::_fft_r2c", [_tensor(20)], _tensor(11, dtype="complex64")), "Fourier transforms"),
        (_use("aten::_fft_c2r", [_tensor(257, dtype="complex64")], _tensor(512)), ""),
        (_use("aten::_fft_c2c", [_tensor(512, dtype="complex64")], _tensor(512)), "Fourier transforms"),
        (_along(20000), "convolutions of long signals"),
        (_along(1000), ""),
        (
            _use("aten::bmm", [_tensor(256, 64, 24), _tensor(256, 24, 64)], _tensor(256, 64, 64)),
            "batched products of narrow matrices",
        ),
        (_use("aten::bmm", [_tensor(12, 64, 64), _tensor(12, 64, 64)], _tensor(12, 64, 64)), ""),
        (_use("aten::gelu", [_tensor(8, 8)], _tensor(8, 8)), ""),
    ],
)
def test_kinds_that_nobody_measured(use: OpUse, kind: str) -> None:
    assert unmeasured_kind(use) == kind


def test_a_range_is_wider_by_what_unmeasured_ops_may_take() -> None:
    plain, vague = (_timing("m4-16", "2.13", _convolved(groups)) for groups in (1, 64))
    assert not plain.unmeasured
    assert vague.unmeasured == {"convolutions in groups": 1.0}
    spans = []
    for one in (plain, vague):
        assert one.per_sample is not None
        assert one.per_sample.expected is not None
        spans.append((one.per_sample.high or 0) / one.per_sample.expected)
    assert spans[1] > spans[0] * 1.2
    assert "convolutions in groups (100%)" in unmeasured(vague)
    assert not unmeasured(plain)


def test_only_macs_have_unmeasured_kinds() -> None:
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    from mpsprobe.forecast.machine import of_gpu

    trace = Trace([_convolved(64)], [0, WAIT])
    told = timing(Work.of(trace, stages(trace)), of_gpu(gpu))
    assert not told.unmeasured
    assert told.per_sample is not None
    found = speed.coverage("cuda", "specification", told.parts[0].bound)
    assert found is not None
    assert told.per_sample.high == pytest.approx(found.high * (told.per_sample.expected or 0))


def test_four_in_five_surprises_lie_within_the_factor() -> None:
    """`[surprises]` of speed.toml: what measured kinds took beyond the model that there was before."""
    assert 3 < speed.surprise() < 20


def _moved(device: str, samples: int = 1_000_000) -> OpUse:
    """Return a copy to a device from the other one, as `Tensor.to` records it."""
    other = {"cpu": "mps:0", "mps:0": "cpu"}[device]
    x, y = (msgspec.structs.replace(_tensor(samples), device=one) for one in (other, device))
    return _use("aten::copy_", [y, x], y)


def test_unseen_work_on_the_cpu_leaves_no_range() -> None:
    """HTDemucs moves its sound to the CPU for each Fourier transform on `mps` (demucs, spec.py) and back."""
    away, back, product = _moved("cpu"), _moved("mps:0"), _convolved()
    told = _timing("m4-max-40c-64", "2.10", product, away, back, product)
    assert told.detour
    assert told.per_sample is not None
    assert told.per_sample.expected
    assert told.per_sample.low is None
    assert told.per_sample.high is None
    assert "copies large tensors to the CPU and back" in unmeasured(told)


def test_inputs_results_and_tokens_are_no_detour() -> None:
    away, back, product = _moved("cpu"), _moved("mps:0"), _convolved()
    assert not _timing("m4-max-40c-64", "2.10", back, product, away).detour
    tokens = [_moved("cpu", 1000), product, _moved("mps:0", 1000), product]
    assert not has_detour(tokens, range(4))
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    trace = Trace([away, back, product], [0, 1, 2, WAIT])
    assert not timing(Work.of(trace, stages(trace)), of_gpu(gpu)).detour
