"""Time against arithmetic by hand: a stack of linear layers on a machine with round figures."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mpsprobe.forecast.kinds import gathered_of, tiles_of
from mpsprobe.forecast.machine import Curve, HostTimes, Machine, Surface, of_gpu, of_mac
from mpsprobe.forecast.timing import Work, carried, timing
from mpsprobe.forecast.trace import MODULE, OPTIMIZER, WAIT, Pass, Trace, stages
from mpsprobe.knowledge import speed
from mpsprobe.mac.catalogue import named
from mpsprobe.run import OpUse, OpVerdict, TensorMeta
from mpsprobe.trace.formulas import add_costs


def _tensor(*shape: int, dtype: str = "float32") -> TensorMeta:
    strides = tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
    return TensorMeta(dtype, shape, strides, "mps:0")


def _linear(rows: int, size: int, count: int, verdict: OpVerdict = OpVerdict.NATIVE) -> OpUse:
    x, w = _tensor(rows, size), _tensor(size, size)
    use = OpUse(op="aten::linear", inputs=[x, w], outputs=[x], count=count, verdict=verdict)
    add_costs(use)
    return use


def _machine(*, queued: bool = True, op: float = 0.0, kernel: float = 0.0, wait: float = 0.0) -> Machine:
    """1 TFLOP/s, 100 GB/s, and it reaches both."""
    return Machine(
        name="round",
        kind="cuda",
        basis="specification",
        peak={"float32": 1e12},
        bandwidth=1e11,
        compute={("matmul", "float32"): Surface([(1, 1, 1e12)])},
        stream=Curve([1], [1e11]),
        weights={"": 1e11},
        attention=1e11,
        host=HostTimes({"stream": op, "view": 0.0}, wait=wait),
        kernel=kernel,
        copy=1e10,
        queued=queued,
    )


def _run(uses: list[OpUse], order: list[int]) -> Work:
    trace = Trace(uses, order)
    return Work.of(trace, stages(trace))


def test_the_floor_is_flops_over_peak_or_bytes_over_bandwidth() -> None:
    # 1024 rows: 2 * 1024^3 FLOP at 1 TFLOP/s; 1 row: 4 MiB of weights and 8 KiB at 100 GB/s
    wide = timing(_run([_linear(1024, 1024, 3)], [0, 0, 0]), _machine()).per_sample
    thin = timing(_run([_linear(1, 1024, 3)], [0, 0, 0]), _machine()).per_sample
    assert wide is not None
    assert thin is not None
    assert wide.floor == pytest.approx(3 * 2 * 1024**3 / 1e12)
    assert thin.floor == pytest.approx(3 * 4 * (1024 * 1024 + 2 * 1024) / 1e11)
    assert wide.expected == pytest.approx(wide.floor)
    assert thin.expected == pytest.approx(thin.floor)


def test_host_and_device_overlap_behind_a_queue() -> None:
    work = _run([_linear(1024, 1024, 4)], [0] * 4)
    device, host = 2 * 1024**3 / 1e12, 1e-3
    behind = timing(work, _machine(op=host)).per_sample
    together = timing(work, _machine(op=host, queued=False)).per_sample
    assert behind is not None
    assert together is not None
    assert behind.expected == pytest.approx(host + 4 * device)  # the first kernel waits for its dispatch
    assert together.expected == pytest.approx(4 * (host + device))


def test_small_ops_cost_their_dispatch_and_waits_are_added() -> None:
    tiny = _linear(1, 8, 5)
    told = timing(_run([tiny], [0, 0, 0, 0, WAIT, 0]), _machine(op=1e-5, kernel=2e-6, wait=1e-4))
    assert told.per_sample is not None
    # four dispatches, the last kernel, the wait, one more dispatch and kernel, and the wait for the end
    assert told.per_sample.expected == pytest.approx(4e-5 + 2e-6 + 1e-4 + 1e-5 + 2e-6 + 1e-4)
    assert told.parts[0].bound == "launch"


def test_a_sample_ends_when_the_host_hears_of_it() -> None:
    tiny = _linear(1, 8, 1)
    machine = _machine(op=1e-5, kernel=2e-6, wait=1e-4)
    heard, unheard = (timing(_run([tiny], order), machine).per_sample for order in ([0, WAIT], [0]))
    assert heard is not None
    assert unheard is not None
    assert heard.expected == unheard.expected == pytest.approx(1e-5 + 2e-6 + 1e-4)


def test_waits_of_a_sample_are_carried_on() -> None:
    token = _linear(1, 256, 4)
    passes = [Pass("", "Llama", 1, 2 * k, 2 * k + 1, cache_before=k, cache=k + 1) for k in range(4)]
    trace = Trace([token], [0, WAIT] * 4, passes)
    work = Work.of(trace, stages(trace))
    machine = _machine(wait=1e-4)
    assert timing(work, machine).wait_seconds == pytest.approx(4e-4)
    assert timing(work, machine, {"decode": 100}).wait_seconds == pytest.approx(100e-4)
    assert timing(work, _machine(queued=False)).wait_seconds is None


def test_a_fallback_costs_two_waits_and_its_copies() -> None:
    native, fallback = _linear(64, 64, 1), _linear(64, 64, 1, OpVerdict.FALLBACK)
    told = timing(_run([fallback], [0]), _machine(wait=1e-4))
    assert told.per_sample is not None
    assert told.per_sample.expected is not None
    moved = 4 * 3 * 64 * 64
    # to the CPU and back, and the wait for the end
    assert told.per_sample.expected == pytest.approx(2e-4 + 2 * moved / 1e10 + 1e-4)
    assert told.native_time_share == 0
    both = timing(_run([native, fallback], [0, 1]), _machine(wait=1e-4))
    assert both.native_call_share == 0.5
    assert both.native_time_share is not None
    assert both.native_time_share < 0.01


@pytest.mark.parametrize(
    ("turns", "repeats", "whole"),
    [
        ([2.0, 2.0, 2.0], 10, 20.0),
        ([1.0, 2.0, 3.0, 4.0], 5, 15.0),
        ([4.0], 3, 12.0),
        ([1.0, 2.0], 2, 3.0),
        ([2.0, 2.0, 2.0, 5.0], 10, 23.0),  # the last turn has what follows the loop
        ([2.0, 2.0], 0, 0.0),
    ],
)
def test_turns_are_carried_on_along_a_line(turns: list[float], repeats: int, whole: float) -> None:
    assert carried(turns, repeats) == pytest.approx(whole)


def test_more_tokens_lengthen_a_generation() -> None:
    prompt, token = _linear(100, 256, 1), _linear(1, 256, 3)
    passes = [Pass("", "Llama", 1, k, k + 1, cache_before=k, cache=k + 1) for k in range(4)]
    trace = Trace([prompt, token], [0, 1, 1, 1], passes)
    found = stages(trace)
    assert [(stage.name, stage.repeats) for stage in found] == [("prefill", 1), ("decode", 3)]
    told = timing(Work.of(trace, found), _machine(), {"decode": 100})
    assert [part.repeats for part in told.parts] == [1, 100]
    assert token.flops is not None
    assert told.parts[1].flops == 100 * token.flops // 3


def test_loops_of_several_modules_are_one_stage() -> None:
    """As a flow does after a VLM: in, expert, out, ten times, with the expert's name."""
    small, large = _linear(1, 8, 40), _linear(64, 256, 10)
    order, passes = [], [Pass("vlm", "VLM", 1, 0, 1, cache_before=0, cache=5)]
    order.append(0)
    for _ in range(10):
        for path, use in (("action_in", 0), ("expert", 1), ("action_out", 0)):
            passes.append(Pass(path, path, 1, len(order), len(order) + 1))
            order.append(use)
        order.append(0)  # between two turns
    found = stages(Trace([small, large], order, passes))
    assert [(stage.name, stage.repeats) for stage in found] == [("vlm", 1), ("expert step", 10)]
    assert found[-1].turns[-1][1] == len(order)
    assert sum(end - start for stage in found for start, end in stage.turns) == len(order)


def test_a_loop_inside_one_call_is_found() -> None:
    use = _linear(4, 64, 12)
    inner = [Pass("unet", "UNet", 2, 1 + 2 * k, 3 + 2 * k) for k in range(5)]
    trace = Trace([use], [0] * 12, [Pass("", "Pipeline", 1, 0, 12), *inner])
    assert [(stage.name, stage.repeats) for stage in stages(trace)] == [("unet step", 5)]


def test_unknown_rates_leave_only_the_floor() -> None:
    gpu = speed.find_gpu("tesla-v100-sxm2")
    assert gpu is not None
    x = _tensor(64, 64, dtype="bfloat16")
    half = OpUse(op="aten::mm", inputs=[x, x], outputs=[x], count=1)
    add_costs(half)
    told = timing(_run([half], [0]), of_gpu(gpu)).per_sample  # it has no bfloat16 units
    assert told is not None
    assert told.expected is None


def test_the_figures_of_a_named_mac() -> None:
    mac = of_mac(named("m1-max-64"))
    assert mac.peak["bfloat16"] == pytest.approx(32 * 128 * 2 * 1.296e9)
    assert mac.bandwidth == 409.6e9
    # PyTorch's bfloat16 matmul reaches less than half of it there, as measured on an M1 Pro
    rate = mac.rate("matmul", "bfloat16", 1e9, 1e7)
    assert rate is not None
    assert 0.35 < rate / mac.peak["bfloat16"] < 0.45


def test_an_m5_has_an_expected_value_and_a_floor_by_bandwidth() -> None:
    x = _tensor(4096, 4096, dtype="float16")
    use = OpUse(op="aten::mm", inputs=[x, x], outputs=[x], count=1, verdict=OpVerdict.NATIVE)
    add_costs(use)
    told = timing(_run([use], [0]), of_mac(named("m5-24"))).per_sample
    assert told is not None
    assert told.expected is not None
    # 13.84 TFLOP/s, published for this matmul with torch 2.8
    assert 2 * 4096**3 / told.expected == pytest.approx(13.84e12, rel=0.15)
    assert told.floor == pytest.approx(3 * 2 * 4096**2 / 153e9)
    assert told.low is not None
    assert told.high is not None
    assert told.low < told.expected < told.high


@pytest.mark.parametrize("name", ["m6-24", "m5-ultra-512", "m3-ultra-512", "a18-pro-8"])
def test_a_chip_whose_clock_is_borrowed_has_a_wider_range(name: str) -> None:
    x = _tensor(4096, 4096)
    use = OpUse(op="aten::mm", inputs=[x, x], outputs=[x], count=1, verdict=OpVerdict.NATIVE)
    add_costs(use)
    borrowed, known = (
        timing(_run([use], [0]), of_mac(named(one))).per_sample for one in (name, "m5-max-128")
    )
    assert borrowed is not None
    assert known is not None
    spans = []
    for span in (borrowed, known):
        assert span.expected is not None
        assert span.high is not None
        spans.append(span.high / span.expected)
    assert spans[0] > 1.2 * spans[1]
    assert any("stands in, and the range is wider" in note for note in of_mac(named(name)).notes)


def test_releases_that_leave_mpsgraph_are_faster() -> None:
    x = _tensor(8, 8)
    adds = OpUse(op="aten::add.Tensor", inputs=[x, x], outputs=[x], count=1000, verdict=OpVerdict.NATIVE)
    add_costs(adds)
    work = _run([adds], [0] * 1000)
    old, new = (timing(work, of_mac(named("m1-max-64"), release)).per_sample for release in ("2.7", "2.8"))
    assert old is not None
    assert new is not None
    assert old.expected is not None
    assert new.expected is not None
    assert old.expected > 2 * new.expected


def test_a_batch_decodes_slowly_before_2_14_in_half_precision() -> None:
    """Advisory linear-decode-slow enters the expected time."""

    def linear(*shape: int) -> OpUse:
        x, w = _tensor(*shape, dtype="float16"), _tensor(4096, 4096, dtype="float16")
        use = OpUse(op="aten::linear", inputs=[x, w], outputs=[x], count=100, verdict=OpVerdict.NATIVE)
        add_costs(use)
        return use

    def seconds(release: str, *shape: int) -> float:
        told = timing(_run([linear(*shape)], [0] * 100), of_mac(named("m1-max-64"), release)).per_sample
        assert told is not None
        assert told.expected is not None
        return told.expected

    assert seconds("2.13", 4, 1, 4096) > 2 * seconds("2.13", 4, 4096)
    assert seconds("2.14", 4, 1, 4096) == pytest.approx(seconds("2.14", 4, 4096))


def test_a_faster_chip_dispatches_faster() -> None:
    m1, m4 = of_mac(named("m1-max-64")), of_mac(named("m4-max-64"))
    assert m4.host.op("stream") == pytest.approx(m1.host.op("stream") * 2379 / 3914)
    assert m4.host.wait == pytest.approx(m1.host.wait)


def test_ops_called_from_cpp_cost_less() -> None:
    x = _tensor(8, 8)
    line = OpUse(op="aten::add.Tensor", inputs=[x, x], outputs=[x], count=100, source="gru.py:1")
    add_costs(line)
    machine = dataclasses.replace(_machine(), host=HostTimes({"stream": 1e-5}, module=3e-6, inner=1e-6))
    told = timing(_run([line], [0] * 100), machine).per_sample
    assert told is not None
    # twelve that Python may call, and what comes after them
    assert told.expected == pytest.approx(12 * 1e-5 + 88 * 1e-6, rel=0.01)
    told = timing(_run([line], [MODULE, 0, MODULE, 0]), machine).per_sample
    assert told is not None
    assert told.expected == pytest.approx(2 * 3e-6 + 2 * 1e-5, rel=0.01)
    # torch.optim is Python: each op of each parameter costs its full price
    told = timing(_run([line], [OPTIMIZER, *[0] * 100, OPTIMIZER]), machine).per_sample
    assert told is not None
    assert told.expected == pytest.approx(100 * 1e-5, rel=0.01)
    # on CUDA it works on lists of tensors, as the default of torch.optim (`_default_to_fused_or_foreach`) has it
    lists = dataclasses.replace(machine, lists=True)
    told = timing(_run([line], [OPTIMIZER, *[0] * 100, OPTIMIZER, 0]), lists).per_sample
    assert told is not None
    assert told.expected == pytest.approx(100 * 1e-6 + 1e-5, rel=0.01)
    gpu = speed.find_gpu("h100")
    assert gpu is not None
    assert of_gpu(gpu).lists
    assert not of_mac(named("m4-max-64")).lists


def test_an_optimizer_before_2_7_costs_what_was_published() -> None:
    """100 tensors of 1024 elements on an M1 Max: 83 to 100 ms without the fused kernel (pull request 127242, 2.4)."""
    x = _tensor(1024)
    names = (
        "mul_.Tensor",
        "lerp_.Scalar",
        "mul_.Tensor",
        "addcmul_",
        "sqrt",
        "div.Tensor",
        "add_.Tensor",
        "addcdiv_",
    )
    uses = [
        OpUse(
            op=f"aten::{name}",
            inputs=[x, x],
            outputs=[x],
            count=100,
            source="train.py:1",
            verdict=OpVerdict.NATIVE,
        )
        for name in names
    ]
    for use in uses:
        add_costs(use)
    order = [OPTIMIZER, *list(range(len(uses))) * 100, OPTIMIZER]
    span = timing(_run(uses, order), of_mac(named("m1-max-32c-64"), "2.4")).per_sample
    assert span is not None
    assert span.low is not None
    assert span.high is not None
    assert span.low < 0.083 < 0.1 < span.high


def test_a_gather_pays_for_each_element() -> None:
    """DeBERTa's attention gathers positions: a step's 48 of them were a third of its time on an M5 Max."""
    source, index = _tensor(128, 280, 512), _tensor(128, 280, 280, dtype="int64")
    result = _tensor(128, 280, 280)
    use = OpUse(
        op="aten::gather", inputs=[source, index], outputs=[result], count=1, verdict=OpVerdict.NATIVE
    )
    add_costs(use)
    assert gathered_of(use) == 128 * 280 * 280
    mac = of_mac(named("m5-max-40c-128"), "2.14")
    span = timing(_run([use], [0]), mac).per_sample
    assert span is not None
    assert span.expected is not None
    assert span.expected > 5 * (use.bytes or 0) / mac.stream.at(1)
    assert gathered_of(_linear(8, 8, 1)) == 0


@pytest.mark.parametrize(
    ("name", "seconds"), [("m1-max-32c-64", 16.3), ("rtx-3090", 5.4), ("h100", 1.3), ("h200", 1.0)]
)
def test_peaks_and_bandwidths_give_rooflines(name: str, seconds: float) -> None:
    """Alpamayo-R1, computed elsewhere: 59.4 TFLOP before and after decoding, 256 tokens of 16.6 GB each."""
    gpu = speed.find_gpu(name)
    machine = of_gpu(gpu) if gpu is not None else of_mac(named(name))
    roofline = 59.4e12 / machine.peak["bfloat16"] + 256 * 16.6e9 / machine.bandwidth
    assert roofline == pytest.approx(seconds, rel=0.06)


def test_a_fused_attention_kernel_writes_no_scores() -> None:
    q, scores = _tensor(1, 4, 512, 64), _tensor(1, 4, 512, 512)
    use = OpUse(
        op="aten::_scaled_dot_product_attention_math_for_mps",
        inputs=[q, q, q],
        outputs=[q, scores],
        count=1,
        verdict=OpVerdict.NATIVE,
    )
    add_costs(use)
    slow = dataclasses.replace(_machine(), peak={"float32": 1e18})  # only bytes count
    held = timing(_run([use], [0]), slow).per_sample
    fused = timing(_run([use], [0]), dataclasses.replace(slow, holds_scores=False)).per_sample
    assert held is not None
    assert fused is not None
    assert held.floor - fused.floor == pytest.approx(4 * 4 * 512 * 512 / 1e11)
    assert fused.floor == pytest.approx(4 * 4 * 4 * 512 * 64 / 1e11)


def test_cudnn_convolves_float32_at_the_rate_of_tf32() -> None:
    h100, v100 = speed.find_gpu("h100"), speed.find_gpu("tesla-v100-sxm2")
    assert h100 is not None
    assert v100 is not None
    assert of_gpu(h100).peak_of("conv", "float32") == pytest.approx(494.7e12)  # NVIDIA's figure for TF32
    assert of_gpu(h100).peak_of("matmul", "float32") == pytest.approx(66.9e12)
    assert of_gpu(v100).peak_of("conv", "float32") == pytest.approx(15.7e12)  # no TF32 before Ampere


def _reduced(op: str, mac: Machine, dim: int = 1) -> float:
    """Return the seconds of 32 texts of 32 tokens by 30522 words that are reduced, over their tokens or another way."""
    use = OpUse(
        op=op,
        inputs=[_tensor(32, 32, 30522)],
        outputs=[_tensor(32, 30522)],
        scalars={"dim": [dim]},
        count=1,
        verdict=OpVerdict.NATIVE,
    )
    add_costs(use)
    span = timing(_run([use], [0]), mac).per_sample
    assert span is not None
    assert span.expected is not None
    return span.expected


@pytest.mark.parametrize(("release", "own_kernel"), [("2.9", False), ("2.13", True), ("2.14", False)])
def test_a_maximum_by_a_metal_kernel_pays_for_each_result(release: str, own_kernel: bool) -> None:
    """SPLADE's maximum over tokens: ReduceOps.metal of 2.13 gives each word of each text a threadgroup."""
    mac = of_mac(named("m4-max-40c-64"), release)
    passing = 4 * 32 * 33 * 30522 / mac.stream.at(1)
    assert (_reduced("aten::amax", mac) > 10 * passing) is own_kernel
    assert _reduced("aten::sum.dim_IntList", mac) < 3 * passing
    assert (
        _reduced("aten::amax", mac, dim=0) < 3 * passing
    )  # pull request 180752: dim 0 and 1 of 1024 x 1024 in 90 us


def _norms(mac: Machine, *shapes: tuple[int, ...], results: tuple[int, ...] = ()) -> float:
    """Return the seconds that norms of tensors take, each of a whole tensor, or with the results of that shape."""
    uses = [
        OpUse(
            op="aten::linalg_vector_norm",
            inputs=[_tensor(*shape)],
            outputs=[_tensor(*(results or (1,) * len(shape)))],
            count=1,
            verdict=OpVerdict.NATIVE,
        )
        for shape in shapes
    ]
    for use in uses:
        add_costs(use)
    span = timing(_run(uses, list(range(len(uses)))), mac).per_sample
    assert span is not None
    assert span.expected is not None
    return span.expected


@pytest.mark.parametrize(("width", "layers", "published"), [(256, 4, 2.7e-3), (512, 6, 15.9e-3)])
def test_norms_one_by_one_or_in_buckets_on_an_m5_pro(width: int, layers: int, published: float) -> None:
    """Both ways as Cotangent times them: seconds a step (runs.csv; 800 steps eager, 1200 compiled)."""
    mac = of_mac(named("m5-pro-20c-24"), "2.14")
    squares = [(256, width)] * 3 + [(width, width)] * layers
    wide = [(3 * width, width)] * layers
    tall = [(4 * width, width)] * 2 * layers
    small = [(width,)] * (4 * layers + 2)
    apart = _norms(mac, *squares, *wide, *tall, *small)
    together = 0.0
    for bucket in (set(squares), set(wide), set(tall), set(small)):
        for shape in bucket:
            n = [*squares, *wide, *tall, *small].count(shape)
            together += _norms(mac, (n, math.prod(shape) // 2, 2), results=(n, 1, 1))
    assert apart - together == pytest.approx(published, rel=0.2)


def test_a_whole_norm_has_one_threadgroup_in_some_releases() -> None:
    """GPT-2's embedding: its gradient's norm reads 154 MB in one pass before 2.12 and from 2.15 on, by their wheels."""
    times = {
        release: _norms(of_mac(named("m4-max-40c-64"), release), (50257, 768))
        for release in ("2.11", "2.12", "2.13", "2.14", "2.15")
    }
    passing = 4 * 50257 * 768 / 546e9
    assert times["2.11"] < 5 * passing
    assert times["2.15"] < 5 * passing
    assert times["2.12"] > times["2.13"] == times["2.14"] > 50 * passing


def test_norms_of_rows_have_a_kernel_of_their_own_from_2_13_on() -> None:
    """Pull request 186076, 4096 x 4096 float32: 1348 us before and 238 after, a factor of 5.7 on its chip."""
    before, after = (
        _norms(of_mac(named("m5-pro-20c-24"), release), (4096, 4096), results=(4096, 1))
        for release in ("2.12", "2.13")
    )
    assert before == pytest.approx(1348e-6, rel=0.3)
    assert 3 < before / after < 8


def test_few_blocks_leave_cores_idle() -> None:
    """40 cores and 64 x 64 results each: 41 blocks take two waves, 80 as well; a long sum is split."""
    mac = of_mac(named("m4-max-40c-64"), "2.13")
    assert mac.filled(40) == 1.0
    assert mac.filled(41) == pytest.approx(41 / 80)
    assert mac.filled(80) == 1.0
    assert mac.filled(0) == 1.0
    use = _linear(256, 768, 1)
    assert tiles_of(use, use.flops or 0) == 4 * 12
    long = OpUse(
        op="aten::mm",
        inputs=[_tensor(64, 1_000_000), _tensor(1_000_000, 32)],
        outputs=[_tensor(64, 32)],
        count=1,
        verdict=OpVerdict.NATIVE,
    )
    add_costs(long)
    assert tiles_of(long, long.flops or 0) == 1_000_000 // 4096
    gpu = speed.find_gpu("h200")
    assert gpu is not None
    assert of_gpu(gpu).filled(1) == 1.0
