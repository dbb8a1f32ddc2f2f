"""One op use replayed in this process: on the CPU, and on the virtual device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mpsprobe.ops import replay as module
from mpsprobe.ops.place import Place, opened
from mpsprobe.ops.protocol import CallTiming, Replay, ReplayOutcome, Request, Setup
from mpsprobe.ops.replay import replay
from mpsprobe.run import OpUse, TensorMeta
from mpsprobe.trace.dispatch import record
from tests.ops.test_inputs import use_of
from tests.trace.zoo import ZOO

pytestmark = pytest.mark.own_process

ENOUGH = 1 << 32


def setup(device: str, torch_release: str = "", *, fallback: bool = False) -> Setup:
    return Setup(device, torch_release, "15.5", 64, fallback, 1, ENOUGH)


@pytest.fixture(scope="module")
def cpu() -> Iterator[Place]:
    with opened(setup("cpu")) as place:
        yield place


def on_mps(use: OpUse, **options: Any) -> Replay:
    moved = OpUse(
        op=use.op,
        inputs=[TensorMeta(t.dtype, t.shape, t.strides, "mps:0") for t in use.inputs],
        outputs=use.outputs,
        scalars=use.scalars,
    )
    with opened(setup("emulated", **options)) as place:
        return replay(Request(moved, 0), place, ENOUGH)


@pytest.mark.parametrize(
    "name", ["llama-generate", "mixtral", "mamba", "convolutional", "unet", "lstm", "t5"]
)
def test_every_op_of_a_sound_device_is_native(name: str, cpu: Place) -> None:
    run = ZOO[name]()
    with record() as recorder, torch.no_grad():
        run()
    for use in recorder.op_uses():
        answer = replay(Request(use, 0), cpu, ENOUGH)
        assert answer.outcome is ReplayOutcome.NATIVE, (use, answer.message, answer.comparisons)


def test_the_reference_is_wider_than_the_op(cpu: Place) -> None:
    use = use_of(
        torch.mm, torch.zeros(32, 64, dtype=torch.bfloat16), torch.zeros(64, 32, dtype=torch.bfloat16)
    )
    (found,) = replay(Request(use, 0), cpu, ENOUGH).comparisons
    assert (found.dtype, found.reference) == ("bfloat16", "float64")
    assert 0 < found.difference < 0.05
    assert found.noise == found.difference, "on the CPU the device is its own noise"


@pytest.mark.parametrize(
    ("call", "args"),
    [
        (torch.argmax, (torch.zeros(9),)),
        (torch.add, (torch.ones(3).long(), 1)),
        (torch.eq, (torch.ones(3), 1.0)),
    ],
)
def test_results_without_floats_are_compared_in_their_own_dtype(call: Any, args: Any, cpu: Place) -> None:
    (found,) = replay(Request(use_of(call, *args), 0), cpu, ENOUGH).comparisons
    assert found.reference == found.dtype
    assert found.difference == 0


@pytest.mark.parametrize(
    ("call", "args", "why"),
    [
        (torch.empty, (3,), "not defined"),
        (torch.multinomial, (torch.ones(9), 2), "random"),
        (torch.rand_like, (torch.ones(9),), "random"),
    ],
)
def test_what_cannot_be_compared_says_why(call: Any, args: Any, why: str, cpu: Place) -> None:
    answer = replay(Request(use_of(call, *args), 0), cpu, ENOUGH)
    assert answer.outcome is ReplayOutcome.NATIVE
    assert why in answer.compared
    assert not answer.comparisons


def test_vectors_that_are_right_in_two_ways_are_not_compared(cpu: Place) -> None:
    answer = replay(Request(use_of(torch.linalg.eigh, torch.eye(5)), 0), cpu, ENOUGH)
    assert answer.outcome is ReplayOutcome.NATIVE
    assert [found.output for found in answer.comparisons] == [0], "the eigenvalues, not the vectors"


def test_what_an_op_writes_to_is_compared(cpu: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    use = use_of(lambda x: x.index_copy_(0, torch.arange(3), torch.ones(3)), torch.zeros(5))
    assert replay(Request(use, 0), cpu, ENOUGH).comparisons


def test_a_reference_that_does_not_fit_is_left_out(cpu: Place) -> None:
    use = use_of(torch.mm, torch.zeros(32, 64), torch.zeros(64, 32))
    (found,) = replay(Request(use, 0), cpu, 1000).comparisons
    assert found.reference == "float32"


def test_inputs_the_cpu_refuses_say_nothing(cpu: Place) -> None:
    use = use_of(torch.mm, torch.zeros(3, 4), torch.zeros(4, 5))
    broken = OpUse(op=use.op, inputs=[use.inputs[0], use.inputs[0]])
    answer = replay(Request(broken, 0), cpu, ENOUGH)
    assert answer.outcome is ReplayOutcome.UNKNOWN
    assert "CPU too" in answer.message


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_what_only_a_backward_pass_reads_is_not_compared() -> None:
    """Attention of cuDNN returns a generator's state and an uninitialised log-sum: seen to differ on an H200."""
    heads = TensorMeta("bfloat16", (1, 4, 8, 16), (512, 128, 16, 1), "cuda:0")
    attention = OpUse(
        op="aten::_scaled_dot_product_cudnn_attention",
        inputs=[heads] * 3,
        scalars={"compute_log_sumexp": False},
    )
    with opened(setup("cuda")) as place:
        assert replay(Request(attention, 0), place, ENOUGH).outcome is not ReplayOutcome.VARIES


def test_what_cannot_be_rebuilt_is_unknown(cpu: Place) -> None:
    answer = replay(Request(OpUse(op="nobody::nothing", inputs=[]), 0), cpu, ENOUGH)
    assert answer.outcome is ReplayOutcome.UNKNOWN
    assert "nobody::nothing" in answer.message


def test_ops_that_only_mps_has_are_unknown_elsewhere(cpu: Place) -> None:
    heads = TensorMeta("float32", (1, 2, 3, 4), (24, 12, 4, 1), "mps:0")
    use = OpUse(
        op="aten::_scaled_dot_product_attention_math_for_mps",
        inputs=[heads] * 3,
        scalars={"attn_mask": None, "dropout_mask": None},
    )
    assert replay(Request(use, 0), cpu, ENOUGH).outcome is ReplayOutcome.UNKNOWN
    answer = on_mps(use)
    assert answer.outcome is ReplayOutcome.NATIVE, answer
    assert answer.comparisons


CHOLESKY = use_of(torch.linalg.cholesky_ex, torch.eye(4))
SOLVE = use_of(torch.linalg.lstsq, torch.eye(4), torch.zeros(4, 1))


def test_a_missing_op_raises_in_pytorchs_words_or_falls_back() -> None:
    """linalg_cholesky_ex has no MPS kernel in 2.4, and one in 2.13 (torch's own native_functions.yaml)."""
    assert on_mps(CHOLESKY).outcome is ReplayOutcome.NATIVE
    missing = on_mps(CHOLESKY, torch_release="2.4")
    assert missing.outcome is ReplayOutcome.RAISES
    assert "'aten::linalg_cholesky_ex.L' is not currently implemented for the MPS device" in missing.error
    fallen = on_mps(CHOLESKY, torch_release="2.4", fallback=True)
    assert fallen.outcome is ReplayOutcome.FALLBACK
    assert fallen.fallbacks == ["aten::linalg_cholesky_ex.L"]
    assert fallen.copied_bytes is not None
    assert fallen.copied_bytes >= 4 * 4 * 4
    assert fallen.comparisons, "its values are still compared"


def test_every_fallback_is_seen_and_not_only_the_first() -> None:
    with opened(setup("emulated", torch_release="2.4", fallback=True)) as place:
        for _ in range(3):
            assert replay(Request(CHOLESKY, 0), place, ENOUGH).outcome is ReplayOutcome.FALLBACK


def test_a_dtype_that_mps_lacks_raises() -> None:
    answer = on_mps(use_of(torch.neg, torch.zeros(3, dtype=torch.float64)))
    assert answer.outcome is ReplayOutcome.RAISES
    assert "float64" in answer.message


def test_native_but_slower_than_the_cpu_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        """The CPU, called a GPU."""

        torch_device = torch.device("cpu")
        measured = True
        synchronize = staticmethod(lambda: None)

        def __init__(self, place: Place) -> None:
            self.watching = place.watching

    use = use_of(torch.mm, torch.zeros(3, 4), torch.zeros(4, 5))
    with opened(setup("cpu")) as place:
        timing = replay(Request(use, 0), Gpu(place), ENOUGH).timing
        assert timing is not None
        assert timing.cpu_s is not None
        assert min(timing.device_s, timing.cpu_s, timing.launch_s) > 0
        for measured, outcome in (
            (CallTiming(3e-3, 1e-3, 1e-5), ReplayOutcome.SLOWER),
            (CallTiming(1e-3, 3e-3, 1e-5), ReplayOutcome.NATIVE),
            (CallTiming(2e-5, 1e-6, 1e-5), ReplayOutcome.NATIVE),  # the launch, not the work
            (CallTiming(3e-3, None, 1e-5), ReplayOutcome.NATIVE),
        ):
            monkeypatch.setattr(module, "measure", lambda *_args, measured=measured: measured)
            answer = replay(Request(use, 0), Gpu(place), ENOUGH)
            assert answer.outcome is outcome
            assert ("slower than the CPU" in answer.message) == (outcome is ReplayOutcome.SLOWER)


def test_a_warned_fallback_is_seen_on_a_real_device() -> None:
    """With the words of MPSFallback.mm, as the compiled library writes them: a TORCH_WARN_ONCE."""
    import warnings

    with opened(setup("cpu")) as place:
        for _ in range(2):
            with place.watching() as seen:
                warnings.warn(
                    "The operator 'aten::_foo' is not currently supported on the MPS backend and will fall back "
                    "to run on the CPU. This may have performance implications.",
                    stacklevel=1,
                )
            assert seen.fallbacks == ["aten::_foo"]
