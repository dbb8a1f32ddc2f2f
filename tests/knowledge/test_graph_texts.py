# ruff: noqa: E501 (texts stay as the programs word them)
"""Texts that Apple's own libraries word: each is answered by what it says, not by its kind."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge.explain import explain

#: (text, message, a part of the meaning, a part of the fix, what the answer must not say)
TEXTS = [
    # https://github.com/pytorch/pytorch/pull/116764
    ("error: 'mps.reduction_min' op operand #0 must be tensor of MPS type values or memref of MPS type values, but got 'tensor<5x5xcomplex<f32>>'", "graph-verification", "complex64 of shape (5, 5)", "view_as_real", "clone"),
    # https://github.com/pyannote/pyannote-audio/issues/1886
    ("error: 'mps.multiply' op operands don't have broadcast-compatible shapes", "graph-verification", "a product of elements", "raises with both sizes", "dtype"),
    # https://github.com/pytorch/pytorch/pull/116580
    ("MPSGraphUtilities.mm:303:0: error: 'mps.reshape' op the result shape is not compatible with the input shape", "graph-verification", "view, reshape or flatten", "wrong view or reshape", "dtype"),
    # further shapes and dtypes of the same verifier
    ("error: 'mps.select' op operand #0 must be tensor of 1-bit signless integer values, but got 'tensor<2x3xui8>'", "graph-verification", "uint8 of shape (2, 3)", "torch.bool", "complex"),
    ("'mps.quux' op result #0 must be tensor of float values, but got 'tensor<*xi1>'", "graph-verification", "result (#0): it got bool", "float32", "complex"),
    ("error: 'mps.concat' op axis 5 is out of range for rank 3", "graph-verification", "torch.cat", "wrong dim", "dtype"),
    ("error: 'mps.conv_2d' op input channels mismatch: 4 vs 8", "graph-verification", "a convolution", "raises with both sizes", "dtype"),
    ("error: 'mps.fft' op operand #0 must be tensor of complex values, but got 'tensor<1x400xf32>'", "graph-verification", "float32 of shape (1, 400)", "torch.complex64", "view_as_real"),
    ("error: 'mps.cast' op operand #0 must be tensor of native values, but got 'tensor<3xf64>'", "graph-verification", "float64 of shape (3)", "torch.float32", "complex"),
    ("error: 'mps.quux' op operand #1 must be 2D tensor of float values, but got 'tensor<3xf32>'", "graph-verification", "number of dimensions", "reshape", "not to blame"),
    ("error: 'mps.quux' op has a fault that nobody has met", "graph-verification", "as the text says", "CPU", "shape"),
    ("Assertion failed: (x == y), function inferType, file GPUConvOps.mm, line 31.", "assertion-in-mpsgraph", "convolution", "CPU", "sum"),
    ("Assertion failed: (x == y), function verify, file MPSRuntimeUtils.h, line 5.", "assertion-in-mpsgraph", "do not tell", "CPU", "convolution"),
    # Metal's libraries, language and compiler; tinygrad, exo and Ollama
    ('Error Domain=MTLLibraryErrorDomain Code=1 "MTLLibrary is not formatted as a MetalLib file"', "metallib-no-library", "cache", "tinygrad", "runner"),
    ('AssertionError: Error Domain=MTLLibraryErrorDomain Code=1 "Invalid library file" UserInfo={NSLocalizedDescription=Invalid library file}', "metallib-no-library", "conda", "METAL_XCODE", "runner"),
    ("AssertionError: Invalid Metal library. Could be due to using conda. Try system python or METAL_XCODE=1 DISABLE_COMPILER_CACHE=1.", "metallib-no-library", "conda", "python.org", "runner"),
    ("Error Domain=MTLLibraryErrorDomain Code=3 error: unknown type name 'bfloat'; did you mean 'float'?", "metal-language-bfloat", "Metal 3.1", "macOS 14 or newer", "runner"),
    ("program_source:12:9: error: no template named 'cooperative_tensor'", "metal-language-tensor", "macOS 26", "GGML_METAL_TENSOR_DISABLE=1", "bfloat"),
    ("Error Domain=MTLLibraryErrorDomain Code=3 error: use of undeclared identifier 'foo'", "metal-source-error", "plain mistake", "newer macOS", "runner"),
    ('Error Domain=MTLLibraryErrorDomain Code=3 "Compiler encountered XPC_ERROR_CONNECTION_INVALID (is the OS shutting down?)"', "metal-compiler-unreachable", "no shader was refused", "logged-in session", "kernel"),
    ('Error Domain=MTLLibraryErrorDomain Code=6 "library not found"', "metallib-file-missing", "default.metallib", "anew", "runner"),
    ('Error Domain=MTLLibraryErrorDomain Code=1 "This library format is not supported on this platform (or was built with an old version of the tools)"', "metallib-other-platform", "newer macOS", "deployment target", "tinygrad"),
    ('Error Domain=MTLLibraryErrorDomain Code=5 "Function foo was not found"', "shader-compile", "no function of that name", "Update", "deferred"),
    ("Unable to reach MTLCompilerService.\nThe process is unavailable because the compiler is no longer active.\nLatest invalidation reason:\nConnection init failed at lookup with error 141 - Reentrancy avoided", "metal-compiler-unreachable", "no shader was refused", "logged-in session", "kernel"),
    # MLX; kernels/CMakeLists.txt and device.cpp tell what builds and asks for nax kernels, io/load.cpp who reads .npy
    ("RuntimeError: [metal::Device] Unable to load kernel affine_qmm_t_nax_bfloat16_t_gs_64_b_4_bm64_bn64_bk64_wm2_w", "mlx-kernel-of-m5", "macOS 26.2", "LM Studio", "stream=mx.cpu"),
    ("RuntimeError: [metal::Device] Unable to load kernel v_Sqrtcomplex64complex64", "mlx-kernel-missing", "dtype", "stream=mx.cpu", "macOS 15"),
    ("RuntimeError: [load] Invalid header in file /Users/joy/mlx_model/solar_q8/weights.00.safetensors", "mlx-no-npy-file", ".npy", "pip install -U mlx", "config.json"),
    ("RuntimeError: [METAL] Command buffer execution failed: Invalid Resource (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource)", "mlx-invalid-resource", "code 9", "pip install -U mlx", "too long"),
    ("RuntimeError: [METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)", "mlx-gpu-memory", "code 8", "smaller", "too long"),
    ("RuntimeError: [METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", "mlx-gpu-timeout", "too long", "Smaller steps", "memory"),
    ("RuntimeError: [METAL] Command buffer execution failed: Internal Error (0000000e:Internal Error)", "mlx-internal-error", "without a reason", "Less memory", "too long"),
    ("MPS: command buffer: Invalid Resource (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource)", "gpu-invalid-resource", "reference", "torch", "MLX"),
    # ggml
    ("ggml_metal_device_init: error: failed to create library", "ggml-metal-library", "not memory", "GGML_METAL_TENSOR_DISABLE=1", "-c"),
    ("ggml_metal_library_init_from_source: error compiling source\nggml_metal_device_init: - the tensor API is not supported in this environment - disabling", "ggml-tensor-probe", "still runs", "Nothing must be done", "-ngl"),
    # ollama's llm/metal_retry.go tries this one again without the tensor units
    ("ggml_backend_metal_device_init: error: failed to allocate context", "ggml-metal-library", "not memory", "GGML_METAL_TENSOR_DISABLE=1", "-c"),
    ("GGML_ASSERT(ggml-metal.m:1645): false", "ggml-assert", "command buffer", "-ngl", "tensor"),
    # torch
    ("RuntimeError: expected scalar type float but found c10::Half", "dtype-names-of-c", "torch.where", "newer torch", "aten::pad"),
    ("RuntimeError: invalid high watermark ratio 1.7", "watermark-default-refused", "own default", "2.0 or newer", "Unset both"),
    ("RuntimeError: invalid high watermark ratio 2.5", "watermark-high", "between 0", "Unset it", "1.7"),
    ("Trying to convert ComplexDouble to the MPS backend but it does not have support for that dtype.", "dtype-complex128-on-mps", "complex128", "torch.complex64", "float8"),
    ("UserWarning: User provided device_type of 'cuda', but CUDA is not available. Disabling", "autocast-cuda", "full precision", "from torch 2.8 on", "2.13 or newer"),
    # Core ML, candle, jaxlib
    ("E5RT: Failed to PropagateInputTensorShapes: std::invalid_argument during type inference for ios18.mul: Shapes are not compatible for broadcasting. (11)", "coreml-input-shapes", "sizes", "convert again", "full disk"),
    ("E5RT: tensor_buffer has known strides while the model has unknown strides", "coreml-runtime-refused", "strides", "contiguous", "full disk"),
    ("Error: Unable to compute the prediction using ML Program. It can be an invalid input data or broken/unsupported model.", "coreml-prediction", "Neural Engine", "cpuAndGPU", "onnx"),
    ("Failed to read model package at file:///Users/u/whisper_large_v3_turbo. Error: A valid manifest does not exist at path: /Users/u/whisper_large_v3_turbo/Manifest.json", "coreml-package-path", "Manifest.json", "git lfs pull", "disk"),
    ("error[E0432]: unresolved import `metal_backend`", "candle-without-metal", "0.3.1", "Update candle", "rustc"),
    ("RuntimeError: This version of jaxlib was built using AVX instructions, which your CPU and/or operating system do not support.", "avx-missing", "Rosetta", "arm64 Python", "CUDA"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "means", "fix", "never"), TEXTS)
def test_a_text_is_answered_by_what_it_says(
    text: str, message: str, means: str, fix: str, never: str
) -> None:
    (found,) = explain(text).findings
    assert found.message == message
    assert means in found.means
    assert fix in found.fix
    assert never not in f"{found.means} {found.fix}"


def test_the_limit_of_channels_looks_at_macos_too() -> None:
    text = "NotImplementedError: Output channels > 65536 not supported at the MPS device"
    (found,) = explain(text, "2.7.1", "15.0.1").findings
    assert "macOS 15.0.1 is not: it must be 15.1 or newer" in found.fixed
    (reached,) = explain(text, "2.7.1", "15.5").findings
    assert "torch 2.7.1 and macOS 15.5 are new enough" in reached.fixed
    (unstated,) = explain(text, "2.7.1").findings
    assert unstated.fixed == ""


@pytest.mark.parametrize(
    "text",
    [
        "error: 'tosa.reshape' op the result shape is not compatible with the input shape",
        "ValueError: Invalid manifest in plugin folder",
        "RuntimeError: invalid ratio 1.7",
    ],
)
def test_lookalikes_of_other_libraries_have_no_answer(text: str) -> None:
    assert explain(text).findings == ()
