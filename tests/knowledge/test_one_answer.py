# ruff: noqa: E501 (quotes stay as they were written)
"""One text, one answer: what of a text is shown, which of two findings stands, and which advisories belong to it."""

import pytest

from mpsprobe.knowledge.explain import explain
from tests.knowledge.real_texts import MISSING_OLD


@pytest.mark.parametrize(
    ("text", "whole", "absent"),
    [
        # ComfyUI and pykonal threads: the reason stands at the end, behind a path of 100 characters and more
        ('loc("mps_multiply"("(mpsFileLoc): /AppleInternal/Library/BuildRoots/a0876c02-1788-11ed-b9c4-96898e02b808/Library/'
         'Caches/com.apple.xbs/Sources/MetalPerformanceShadersGraph/mpsgraph/MetalPerformanceShadersGraph/Core/Files/'
         "MPSGraphUtilities.mm\":219:0)): error: input types 'tensor<34x10237xf32>' and 'tensor<1xi64>' are not broadcast "
         "compatible", "'tensor<1xi64>' are not broadcast compatible", "AppleInternal"),
        ("ImportError: dlopen(/Users/wbfrank/Projects/code/pykonal/pykonal/solver.cpython-310-darwin.so, 0x0002): tried: "
         "'/Users/wbfrank/Projects/code/pykonal/pykonal/solver.cpython-310-darwin.so' (mach-o file, but is an incompatible "
         "architecture (have 'x86_64', need 'arm64e'))", "ImportError: dlopen(.../pykonal/solver.cpython-310-darwin.so",
         "wbfrank"),
        ('Undefined symbols for architecture arm64:\n  "_OrtSessionOptionsAppendExecutionProvider_CoreML", referenced from:',
         "arm64: \"_OrtSessionOptionsAppendExecutionProvider_CoreML\"", " ... "),
        ("ERROR: Could not find a version that satisfies the requirement bitsandbytes==0.43.0 (from axolotl) (from versions: "
         + ", ".join(f"0.{minor}.{patch}" for minor in range(31, 42) for patch in range(5)) + ", 0.42.0)",
         " 0.42.0)", "0.38.0"),
    ],
)  # fmt: skip
def test_the_excerpt_shows_what_decides(text: str, whole: str, absent: str) -> None:
    excerpt = explain(f"2026-01-01 run\n{text}\nbye").findings[0].excerpt
    assert whole in excerpt
    assert absent not in excerpt
    assert len(excerpt) < 400


def test_the_excerpt_of_one_long_line_begins_and_ends_at_words() -> None:
    noise = "alpha beta gamma " * 400
    excerpt = explain(f"{noise}{MISSING_OLD.split(' If ')[0]} {noise}").findings[0].excerpt
    assert "aten::isin" in excerpt
    assert set(excerpt.split()[:3]) <= {"...", "alpha", "beta", "gamma"}
    assert set(excerpt.split()[-3:]) <= {"...", "alpha", "beta", "gamma", "device."}


def test_the_excerpt_of_a_missing_op_ends_with_what_it_says() -> None:
    assert explain(MISSING_OLD).findings[0].excerpt.endswith("implemented for the MPS device.")


def test_a_limit_that_is_not_reached_is_named() -> None:
    text = "TypeError: BFloat16 is not supported on MPS"
    (found,) = explain(text, "2.5.1", "13.1").findings
    assert "macOS 13.1 is not: it must be 14" in found.fixed
    # bfloat16 on MPS needs macOS 14, whatever the torch
    text = "Trying to convert BFloat16 to the MPS backend but it does not have support for that dtype."
    assert "macOS 13.0 is not: it must be 14" in explain(text, "2.8", "13.0").findings[0].fixed
    assert "new enough" not in explain(text, "2.8").findings[0].fixed
    (found,) = explain(
        "NotImplementedError: Output channels > 65536 not supported at the MPS device", "2.7.1", "15.0.1"
    ).findings
    assert "check that the program" not in found.fixed
    assert "15.0.1" in found.fixed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised:\nAssertionError: Device mps not supported",
         "compile-device"),
        ("RuntimeError: [metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the maximum allowed "
         "buffer size of 30150672384 bytes.", "metal-buffer-length"),
        ("UserWarning: Failed to load image Python extension: dlopen(/x/torchvision/image.so, 0x0006): Symbol not found: "
         "(__ZN2at4_ops19empty_memory_format4callEN3c108ArrayRefINS2_6SymIntEEE)", "library-of-other-torch"),
        ("RuntimeError: Failed to created pipeline state object, error: Error Domain=AGXMetalG13X Code=3 "
         '"Compiler encountered an internal error"', "metal-compiler"),
    ],
)  # fmt: skip
def test_of_two_findings_the_reason_stands(text: str, message: str) -> None:
    assert [finding.message for finding in explain(text).findings] == [message]


def test_a_harmless_note_does_not_contradict_an_error() -> None:
    note = "llama_context: n_ctx_per_seq (4096) < n_ctx_train (131072)"
    assert [one.severity for one in explain(note).findings] == ["warning"]
    assert "llama-cpp-notes" not in {one.message for one in explain(f"{note}\n{MISSING_OLD}").findings}


def test_one_answer_for_several_values_is_given_once() -> None:
    text = "\n".join(
        f"RuntimeError: [load_safetensors] Failed to open file m/model-{at}.safetensors" for at in range(3)
    )
    (finding,) = explain(text).findings
    assert finding.count == 3
    ops_ = "\n".join(
        f"The operator 'aten::{op}' is not currently implemented for the MPS device" for op in ("a", "b")
    )
    assert len(explain(ops_).findings) == 2


@pytest.mark.parametrize(
    ("text", "advisory", "fits"),
    [
        ("Trying to convert ComplexDouble to the MPS backend but it does not have support", "float8-unsupported", False),
        ("Trying to convert Float8_e4m3fn to the MPS backend but it does not have support", "float8-unsupported", True),
        ("dlopen(/x/torchaudio/lib/libtorchaudio.so, 0x0006): Symbol not found: __ZN2at4_ops6conv1d4callERKNS_6TensorE",
         "torchvision-deform-conv2d-missing", False),
        ("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.",
         "transformers-5-9-float64-positions", False),
        ('File "/x/site-packages/transformers/models/rt_detr/modeling_rt_detr.py", line 3, in f\n'
         "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.",
         "transformers-5-9-float64-positions", True),
    ],
)  # fmt: skip
def test_advisories_are_about_the_text(text: str, advisory: str, fits: bool) -> None:
    assert (advisory in explain(text).findings[0].advisories) is fits
