"""Memory against arithmetic: verdicts at their borders, heaps, growth, a Llama's cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from mpsprobe.forecast.memory import GIB, MIB, growth, heap_bytes, highest, judge, memory
from mpsprobe.forecast.trace import Pass, Trace, stages
from mpsprobe.knowledge import chips
from mpsprobe.models import profile
from mpsprobe.models.adapter import Weights
from mpsprobe.models.weightless.from_config import Blueprint
from mpsprobe.models.weightless.random_init import RandomInitAdapter
from mpsprobe.prediction.observed import WeightlessTarget, observe
from mpsprobe.run import Fit, Mac, OpUse, OpVerdict, TensorMeta

pytestmark = pytest.mark.own_process

_LAYERS, _KV_HEADS, _HEAD, _VOCABULARY = 3, 2, 32, 2000


@pytest.mark.parametrize(
    ("needed", "fit"),
    [
        (9, Fit.COMFORTABLE),
        (9.01, Fit.TIGHT),
        (10, Fit.TIGHT),
        (12, Fit.TIGHT),
        (12.01, Fit.NO),
    ],
)
def test_verdicts_at_their_borders(needed: float, fit: Fit) -> None:
    """15 GiB of memory of which Metal recommends 10: 3 are others', the high watermark would be at 17."""
    assert judge(int(needed * GIB), 10 * GIB, 15 * GIB)[0] is fit


def test_past_the_high_watermark_is_no_even_with_memory_left() -> None:
    found, reason = judge(int(17.1 * GIB), 10 * GIB, 64 * GIB)
    assert found is Fit.NO
    assert "raises" in reason
    assert judge(int(16.9 * GIB), 10 * GIB, 64 * GIB)[0] is Fit.TIGHT


def test_heaps_of_the_allocator() -> None:
    assert heap_bytes([]) == 0
    assert heap_bytes([256]) == 8 * MIB
    assert heap_bytes([MIB] * 8) == 8 * MIB
    assert heap_bytes([MIB] * 9) == 16 * MIB
    assert heap_bytes([5 * MIB] * 6) == 32 * MIB  # six of five fit into 32, a seventh does not
    assert heap_bytes([5 * MIB] * 7) == 64 * MIB
    assert heap_bytes([100 * MIB]) == 1024 * MIB
    assert heap_bytes([600 * MIB + 1]) == 602 * MIB  # a heap of its own, rounded up to 2 MiB
    # Rooms of 5 and 14 are left: the buffer of 5 takes the tighter, so that two of 7 fill the other.
    assert heap_bytes([size * MIB for size in (9, 9, 9, 9, 9, 5, 7, 7)]) == 64 * MIB


def _generation() -> Trace:
    """Weights of 1000, input of 10; each token adds 5 to the cache and 2 to what is kept."""
    passes = []
    for k in range(4):
        kept, cache = 2 * k, 50 + 5 * k
        before = 1010 + kept + (cache - 5 if k else 0)
        peak = before + (300 if k == 0 else 45)
        after = 1010 + kept + cache
        passes.append(
            Pass("", "Llama", 1, k, k + 1, before, after, peak, before, cache - 5 if k else 0, cache)
        )
    return Trace([], [-2] * 4, passes, weights=1000, storages=(1000,), inputs=10, end=1082, peak=1310)


def test_growth_and_the_highest_moment() -> None:
    trace = _generation()
    found = stages(trace)
    assert [stage.name for stage in found] == ["decode"]  # no FLOPs tell the prompt apart here
    grown = growth(trace, found)
    assert grown is not None
    assert (grown.cache, grown.kept) == (5, 2)
    held = highest(trace, found)
    assert held.total == 1310
    assert (held.weights, held.inputs, held.cache) == (1000, 10, 50)


@pytest.fixture(scope="module")
def llama() -> Trace:
    """A Llama of 3 layers that was given 8 tokens to generate."""
    config = transformers.LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD,
    )
    generic = profile.load("transformers")
    generic.inference["max_new_tokens"] = 8
    blueprint = Blueprint("llama", transformers.LlamaForCausalLM, config, Path("/nonexistent"))
    adapter = RandomInitAdapter(Path("/nonexistent"), generic, blueprint)
    adapter.weights = Weights.NONE
    return observe(WeightlessTarget("llama", adapter, "float16"), Mac("2.8", "15.5")).trace


def test_a_llamas_cache_grows_by_two_tensors_a_layer(llama: Trace) -> None:
    found = stages(llama)
    assert [(stage.name, stage.repeats) for stage in found] == [("prefill", 1), ("decode", 7)]
    grown = growth(llama, found)
    assert grown is not None
    assert grown.cache == 2 * _LAYERS * _KV_HEADS * _HEAD * 2  # keys and values, float16


def test_a_llamas_weights_and_activations(llama: Trace) -> None:
    hidden, wide = 128, 512
    layer = 2 * hidden * hidden + 2 * hidden * _KV_HEADS * _HEAD + 3 * hidden * wide + 2 * hidden
    parameters = 2 * _VOCABULARY * hidden + _LAYERS * layer + hidden
    assert 2 * parameters <= llama.weights < 2 * parameters * 1.01  # buffers and rounding to 256 bytes
    prompt = next(one for one in llama.passes if one.depth == 1)
    tokens = prompt.cache // (2 * _LAYERS * _KV_HEADS * _HEAD * 2)
    # a layer holds at least its input and both halves of the gated MLP at once
    assert prompt.peak - prompt.before >= tokens * (hidden + 2 * wide) * 2
    assert prompt.after - prompt.before < prompt.peak - prompt.before


def test_memory_grows_by_what_a_token_takes(llama: Trace) -> None:
    found = stages(llama)
    grown = growth(llama, found)
    assert grown is not None
    some, more = highest(llama, found, 500), highest(llama, found, 1500)
    assert more.cache - some.cache == 1000 * grown.cache
    assert more.total > some.total


def test_remedies_have_numbers_and_lead_somewhere() -> None:
    trace = _generation()
    size = 16 * GIB
    large = Trace(
        [], trace.order, trace.passes, weights=20 * GIB, storages=(20 * GIB,), inputs=10, end=0, peak=21 * GIB
    )
    told = memory(large, stages(large), memory_bytes=size, macos="15.5", dtypes={"float32": 5 * GIB})
    assert told.fit is Fit.NO
    assert told.needed_bytes is not None
    assert told.needed_bytes > size
    assert any("float16" in one.sentence for one in told.remedies)
    assert any("4-bit" in one.sentence for one in told.remedies)
    assert any("GB of memory: fits easily" in one.sentence for one in told.remedies)
    assert sum(part.bytes or 0 for part in told.parts if part.name != "OS and other") == told.needed_bytes


def test_a_tensor_past_metals_limit_of_a_buffer_does_not_fit() -> None:
    """A Mac of 16 GB with macOS 15 recommends 12.7 GB, and allows three quarters of that in one buffer."""
    limit = chips.max_buffer(16 * GIB, "15.5")
    for size, fits in ((limit, False), (limit - 1, True)):
        trace = Trace([], [], weights=size, storages=(size,), peak=size)
        told = memory(trace, [], memory_bytes=16 * GIB, macos="15.5", dtypes={"float16": size // 2})
        assert told.largest_buffer_bytes == size
        assert told.buffer_limit_bytes == limit
        assert (told.fit is not Fit.NO) == fits
        assert ("maxBufferLength" in told.reason) != fits


@pytest.mark.parametrize(("tensors", "fits"), [(1, False), (2, True)])
def test_half_the_bits_help_where_a_tensor_then_fits(tensors: int, fits: bool) -> None:
    """One float32 tensor of more than twice Metal's limit of a buffer stays too large in 16 bits."""
    size = 2 * chips.max_buffer(16 * GIB, "15.5") + GIB // 4
    trace = Trace([], [], weights=size, storages=(size // tensors,) * tensors, peak=size)
    told = memory(trace, [], memory_bytes=16 * GIB, macos="15.5", dtypes={"float32": size // 4})
    (half,) = (one for one in told.remedies if "float16" in one.sentence)
    assert (half.fit is not Fit.NO) == fits
    assert ("one tensor" in half.sentence) != fits


def test_the_largest_tensor_is_a_weight_or_what_an_op_wrote() -> None:
    def written(shape: tuple[int, ...], strides: tuple[int, ...], device: str = "mps") -> OpUse:
        made = TensorMeta("float32", shape, strides, device)
        return OpUse(
            op="aten::mm", inputs=[], outputs=[made], verdict=OpVerdict.NATIVE, count=1, module="", source=""
        )

    whole, repeated = written((10, 1000), (1000, 1)), written((99999, 1000), (0, 1))
    assert Trace([whole, repeated], [], storages=(400,)).largest == 40_000
    assert Trace([written((10**6,), (1,), "cpu")], [], storages=(400,)).largest == 400
    assert Trace([], []).largest == 0


def test_an_unknown_largest_tensor_is_not_stated() -> None:
    assert (
        memory(Trace([], []), [], memory_bytes=16 * GIB, macos="15.5", dtypes={}).largest_buffer_bytes is None
    )
