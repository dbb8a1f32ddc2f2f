# ruff: noqa: E501 (texts stay as the libraries word them)
"""Texts of Python, macOS, package managers and other libraries, and those of PyTorch's own Python files."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mpsprobe.knowledge.explain import explain

#: As pip, zsh, dyld, transformers, bitsandbytes, vLLM, MLX and others write them.
TEXTS = [
    (
        "ImportError: dlopen(/x/core.so, 0x0002): tried: '/x/core.so' (mach-o file, but is an incompatible architecture (have 'x86_64', need 'arm64'))",
        "wrong-architecture",
    ),
    (
        "ImportError: dlopen(/x/_C.so, 0x0002): symbol not found in flat namespace '__ZN3c106detail14torchCheckFail'",
        "flat-namespace-symbol",
    ),
    ("zsh: illegal hardware instruction  python train.py", "illegal-instruction"),
    ("zsh: abort      python run.py", "abort-only"),
    ("Abort trap: 6", "abort-only"),
    ("zsh: no matches found: transformers[torch]", "zsh-brackets"),
    ("error: externally-managed-environment", "externally-managed"),
    ("A module that was compiled using NumPy 1.x cannot be run in NumPy 2.0.1 as it may crash.", "numpy-2"),
    ("RuntimeError: Numpy is not available", "numpy-2"),
    (
        "urllib.error.URLError: <urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1000)>",
        "ssl-certificates",
    ),
    ("clang: error: unsupported option '-fopenmp'", "openmp-headers"),
    ("fatal error: 'omp.h' file not found", "openmp-headers"),
    (
        "xcrun: error: invalid active developer path (/Library/Developer/CommandLineTools), missing xcrun",
        "old-build-tools",
    ),
    (
        "RuntimeError: An attempt has been made to start a new process before the current process has finished its bootstrapping phase.",
        "spawn-without-main",
    ),
    ("AttributeError: Can't pickle local object 'main.<locals>.<lambda>'", "spawn-pickle"),
    ("AttributeError: Can't get attribute 'MyDataset' on <module '__main__' (built-in)>", "spawn-pickle"),
    (
        "objc[123]: Class AVFFrameReceiver is implemented in both /x/cv2/.dylibs/libavdevice.dylib and /y/libavdevice.dylib. One of the two will be used.",
        "class-in-two-libraries",
    ),
    (
        "ValueError: FP16 Mixed precision training with AMP or APEX (`--fp16`) and FP16 half precision evaluation (`--fp16_full_eval`) can only be used on CUDA devices.",
        "torch-mixed-precision-trainer",
    ),
    ("AssertionError: CUDA unavailable, invalid device 0 requested", "asks-for-cuda-device"),
    (
        "ValueError: Invalid CUDA 'device=0' requested. Use 'device=cpu' or pass valid CUDA device(s) if available",
        "asks-for-cuda-device",
    ),
    (
        "RuntimeError: Torch is not able to use GPU; add --skip-torch-cuda-test to COMMANDLINE_ARGS variable to disable this check",
        "asks-for-cuda-device",
    ),
    ("RuntimeError: FlashAttention only supports Ampere GPUs or newer.", "compute-capability"),
    (
        "OSError: CUDA_HOME environment variable is not set. Please set it to your CUDA install root.",
        "cuda-home",
    ),
    ("RuntimeError: GPU is required to quantize or run quantize model.", "quantiser-needs-gpu"),
    (
        "RuntimeError: No GPU or XPU found. A GPU or XPU is needed for FP8 quantization.",
        "quantiser-needs-gpu",
    ),
    (
        "ValueError: FP8 quantized models is only supported on GPUs with compute capability >= 8.9 (e.g 4090/H100), actual = `0.0`",
        "cuda-weights",
    ),
    ("RuntimeError: Failed to infer device type", "vllm-device"),
    ("ModuleNotFoundError: No module named 'vllm._C'", "vllm-device"),
    (
        "deepspeed.ops.op_builder.builder.MissingCUDAException: CUDA_HOME does not exist, unable to compile CUDA op(s)",
        "cuda-home",
    ),
    (
        "NotImplementedError: No operator found for `memory_efficient_attention_forward` with inputs:",
        "xformers",
    ),
    ("xFormers wasn't build with CUDA support", "xformers"),
    (
        "torch._inductor.exc.TritonMissing: Cannot find a working triton installation. Either the package is not installed or it is too old.",
        "triton-missing",
    ),
    ("RuntimeError: 0 active drivers ([]). There should only be one.", "triton-missing"),
    (
        "RuntimeError: Couldn't find appropriate backend to handle uri audio.mp3 and format None.",
        "audio-backend",
    ),
    (
        "ImportError: TorchCodec is required for load_with_torchcodec. Please install torchcodec to use this function.",
        "audio-backend",
    ),
    (
        "RuntimeError: Could not load libtorchcodec. Likely causes: 1. FFmpeg is not properly installed in your environment.",
        "audio-backend",
    ),
    (
        "RuntimeError: Couldn't load custom C++ ops. This can happen if your PyTorch and torchvision versions are incompatible",
        "torchvision-ops",
    ),
    ("RuntimeError: operator torchvision::nms does not exist", "torchvision-ops"),
    ("MisconfigurationException: No supported gpu backend found!", "accelerator-none"),
    (
        "WARNING Apple MPS known Pose bug. Recommend 'device=cpu' for Pose models. See https://github.com/ultralytics/ultralytics/issues/4031.",
        "ultralytics-pose",
    ),
    ("RuntimeError: Input type (float) and bias type (c10::Half) should be the same", "dtypes-differ-matmul"),
    ("RuntimeError: mat1 and mat2 must have the same dtype, but got Half and Float", "dtypes-differ-matmul"),
    ("UserWarning: FP16 is not supported on CPU; using FP32 instead", "fp16-on-cpu-whisper"),
    (
        "RuntimeError: [metal::malloc] Attempting to allocate 28991029248 bytes which is greater than the maximum allowed buffer size of 22613000192 bytes.",
        "metal-buffer-length",
    ),
    ("RuntimeError: [metal::load_device] No Metal device available.", "mlx-metal"),
    ("ValueError: Model type gemma3n not supported.", "mlx-model-type"),
    (
        "The current `device_map` had weights offloaded to the disk. Please provide an `offload_folder` for them.",
        "offloaded-to-disk",
    ),
    (
        "ValueError: Due to a serious vulnerability issue in `torch.load`, even with `weights_only=True`, we now require users to upgrade torch to at least v2.6 in order to use the function.",
        "torch-load-cve",
    ),
    (
        "ERROR: torch-2.0.1+cu118-cp310-cp310-linux_x86_64.whl is not a supported wheel on this platform.",
        "wheel-of-other-platform",
    ),
    (
        "ERROR: Could not build wheels for tokenizers, which is required to install pyproject.toml-based projects",
        "wheel-of-old-release",
    ),
    ("RuntimeError: Dynamo is not supported on Python 3.12+", "dynamo-python"),
    ("OSError: [Errno 24] Too many open files", "too-many-files"),
    (
        "python(812,0x1f) malloc: *** error for object 0x600: pointer being freed was not allocated",
        "malloc-error",
    ),
    (
        "python(4211) MallocStackLogging: can't turn off malloc stack logging because it was not enabled.",
        "malloc-stack-logging",
    ),
    ("[W NNPACK.cpp:64] Could not initialize NNPACK! Reason: Unsupported hardware.", "nnpack"),
    (
        "huggingface/tokenizers: The current process just got forked, after parallelism has already been used. Disabling parallelism to avoid deadlocks...",
        "tokenizers-fork",
    ),
    (
        "NotOpenSSLWarning: urllib3 v2 only supports OpenSSL 1.1.1+, currently the 'ssl' module is compiled with 'LibreSSL 2.8.3'.",
        "libressl",
    ),
    ("Failed to load _MLModelProxy: No module named 'coremltools.libcoremlpython'", "coreml-native-part"),
    ("RuntimeError: Distributed package doesn't have NCCL built in", "distributed-backend"),
    ("ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!", "distributed-backend"),
    ("RuntimeError: makeDeviceForHostname(): unsupported gloo device", "distributed-backend"),
    (
        "RuntimeError: FSDP needs a non-CPU accelerator device, but no accelerator device is detected.",
        "fsdp-on-mps",
    ),
    (
        "RuntimeError: `fused=True` requires all the params to be floating point Tensors of supported devices: ['cuda', 'xpu', 'privateuseone'].",
        "fused-optimizer",
    ),
    (
        "UserWarning: 1Torch was not compiled with flash attention. (Triggered internally at ../aten/src/ATen/native/transformers/cuda/sdp_utils.cpp:455.)",
        "flash-not-compiled",
    ),
    (
        "FutureWarning: `torch.cuda.amp.autocast(args...)` is deprecated. Please use `torch.amp.autocast('cuda', args...)` instead.",
        "cuda-amp-deprecated",
    ),
    ("NotImplementedError: Unsloth cannot find any torch accelerator? You need a GPU.", "unsloth"),
    ("NotImplementedError: Unsloth: No NVIDIA GPU found? Unsloth currently only supports GPUs!", "unsloth"),
    (
        "TypeError: can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.",
        "numpy-of-mps-tensor",
    ),
    ("RuntimeError: Input, output and indices must be on the current device", "embedding-devices"),
    ("RuntimeError: Tensor on device cpu is not on the expected device mps:0!", "expected-device"),
    ("safetensors_rust.SafetensorError: device mps is invalid", "safetensors-device"),
    ("OSError: You are trying to access a gated repo.", "gated-repo"),
    (
        "ValueError: The checkpoint you are trying to load has model type `qwen3` but Transformers does not recognize this architecture.",
        "unknown-model-type",
    ),
    ("ImportError: cannot import name 'cached_download' from 'huggingface_hub'", "transformers-moved-name"),
    (
        "Error: command buffer exited with error status. The Metal Performance Shaders operations encoded on it may not have completed. Error: (null) Internal Error (0000000e:Internal Error)",
        "gpu-internal-error",
    ),
    ("Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)", "gpu-timeout"),
    (
        "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
        "gpu-interactivity",
    ),
    (
        "Ignored (for causing prior/excessive GPU errors) (00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)",
        "gpu-submissions-ignored",
    ),
    ("Caused GPU Address Fault Error (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)", "gpu-page-fault"),
    (
        "Discarded (victim of GPU error/recovery) (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
        "gpu-innocent-victim",
    ),
    ("The Kernel crashed while executing code in the current cell or a previous cell.", "kernel-died"),
    (
        "RuntimeError: unable to mmap 4976698672 bytes from file <model.safetensors>: Cannot allocate memory (12)",
        "cpu-allocator",
    ),
    (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes.",
        "cpu-allocator",
    ),
    (
        "-[MTLDebugDevice newBufferWithLength:options:]:646: failed assertion `Buffer Validation newBufferWithLength:0x4 must not exceed 17179869184'",
        "metal-buffer-length",
    ),
    ("Compiler failed to build request", "metal-compiler"),
    (
        "RuntimeError: Failed to create Metal pipeline: Compiler encountered an internal error",
        "metal-compiler",
    ),
    ("AssertionError: No inf checks were recorded for this optimizer.", "no-inf-checks"),
    (
        "RuntimeError: mixed dtype (CPU): expect parameter to have scalar type of Float",
        "dtypes-differ-matmul",
    ),
    (
        "RuntimeError: Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got MPSFloatType instead (while checking arguments for embedding)",
        "indices-dtype",
    ),
    ("ImportError: Library not loaded: @rpath/libtorch_cpu.dylib", "library-not-loaded"),
    (
        "ImportError: dlopen(torchaudio/lib/_torchaudio.abi3.so): Library not loaded: @rpath/libtorch.dylib",
        "library-not-loaded",
    ),
    (
        "ValueError: Some modules are dispatched on the CPU or the disk. Make sure you have enough GPU RAM to fit the quantized model.",
        "offloaded-to-disk",
    ),
    (
        "RuntimeError: Trying to backward through MPS: derivative for aten::_scaled_dot_product_attention_math_for_mps is not implemented",
        "derivative-missing",
    ),
    ("RuntimeError: derivative for aten::grid_sampler_2d_backward is not implemented", "derivative-missing"),
    (
        "OSError: dlopen(/x/torch/lib/libtorch_global_deps.dylib, 0x000A): tried: '/x' (mach-o file, but is an incompatible architecture (have (arm64), need (x86_64h)))",
        "wrong-architecture",
    ),
    ("ERROR: Failed building wheel for pysam/llama-cpp-python", "build-of-wheel-failed"),
    ("ggml_metal_graph_compute: command buffer 0 failed with status 5", "ggml-metal"),
    ("ggml_metal_init: error: load pipeline error", "ggml-metal"),
    ("RuntimeError: Unable to find a valid cuDNN algorithm to run convolution", "engine-of-cudnn"),
    ("FileNotFoundError: [Errno 2] No such file or directory: 'nvidia-smi'", "nvidia-smi"),
    (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "asks-for-cuda-device",
    ),
    ("RuntimeError: PyTorch was compiled without CUDA support", "asks-for-cuda-device"),
    ("RuntimeError: Cannot access accelerator device when none is available.", "accelerator-none"),
    # public threads: pytorch#166237 and #109716, ultralytics#22971, mlx-vlm#661 and #698, textgen#3328, pytorch_scatter#241,
    # dgl#4274, kohya_ss#328 and #522, pytorch#70344, torchgeo-bench#254
    ("Mismatched elements: 1 / 5 (20.0%)", "values-differ"),
    (
        "ValueError: boxes1 must be in [x0, y0, x1, y1] (corner) format, but got tensor([], device='mps:0')",
        "boxes-not-corners",
    ),
    (
        "RuntimeError: shape mismatch: value tensor of shape [8] cannot be broadcast to indexing result of shape [7]",
        "mask-count-changed",
    ),
    (
        "TypeError: Received a InternVLImageProcessor for argument image_processor, but a ImageProcessingMixin was expected.",
        "processor-type",
    ),
    ("ModuleNotFoundError: No module named 'auto_gptq'", "cuda-package-missing"),
    (
        "error: command '/Users/me/miniconda3/envs/torch/bin/clang' failed with exit code 1",
        "compile-of-package-failed",
    ),
    ("KeyError: 'mps'", "library-table-lacks-mps"),
    ("ERROR: No matching distribution found for torch==1.12.1+cu116", "cuda-build-pinned"),
    (
        "UserWarning: cv2/../../lib: did not contain libcudart.so as expected! Searching further paths...",
        "no-libcudart",
    ),
    ("Warning: Cannot set number of intraop threads after parallel work has started", "intraop-threads"),
    # marker#875, torchtune#1233, executorch#6984, pytorch#107294, llm.c#35, audio-separation-nodes#16
    (
        "[WARNING] surya: `TableRecEncoderDecoderModel` is not compatible with mps backend. Defaulting to cpu instead",
        "library-falls-to-cpu",
    ),
    ("NOTE: Redirects are currently not supported in Windows or MacOs.", "torchrun-redirects"),
    (
        "reason: '+[MLModel compileModelAtURL:completionHandler:]: unrecognized selector sent to class 0x1daa8e928'",
        "apple-api-of-newer-system",
    ),
    ("RuntimeError: Function 'LogSoftmaxBackward0' returned nan values in its 0th output.", "anomaly-nan"),
    ("[1]    15017 bus error  python3 train_gpt2.py", "crash"),
    (
        "RuntimeError: mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype.",
        "float-op-on-integers",
    ),
    ("UserWarning: Got pickle error when attempting to start a worker Process.", "spawn-pickle-note"),
    ("ValueError: Expected a cuda device, but got: mps", "cuda-call-with-mps"),
    (
        "RuntimeError: Expected a proper Tensor but got None (or an undefined Tensor in C++) for argument #0 'grad_output'",
        "lstm-grad-missing",
    ),
    ("RuntimeError: Invalid device string: 'mps:0'", "device-string"),
    (
        "ImportError: Using `low_cpu_mem_usage=True` or a `device_map` requires Accelerate: `pip install 'accelerate>=0.26.0'`",
        "package-by-pip",
    ),
    ("AttributeError: module 'numpy' has no attribute 'float'", "numpy-api"),
    ("TypeError: Descriptors cannot be created directly.", "protobuf"),
    ("ModuleNotFoundError: No module named 'torchvision.transforms.functional_tensor'", "functional-tensor"),
    ("OSError: [Errno 28] No space left on device", "disk-full"),
    ("OSError: [Errno 48] Address already in use", "port-in-use"),
    ("PermissionError: [Errno 1] Operation not permitted: '/Users/me/Documents'", "not-permitted"),
    (
        "Intel MKL FATAL ERROR: This system does not meet the minimum requirements for use of the Intel(R) Math Kernel Library.",
        "mkl-on-rosetta",
    ),
    ("zsh: bad CPU type in executable: python", "bad-executable"),
    ("clang: error: the clang compiler does not support '-march=native'", "march-native"),
    ("MemoryError", "python-memory"),
    (
        "Pipelines loaded with `dtype=torch.float16` cannot run with `cpu` device. It is not recommended to move them to `cpu`",
        "half-pipeline-on-cpu",
    ),
    (
        "ValueError: You can't train a model that has been loaded in 8-bit precision on a different device than the one you're training on.",
        "quantised-training-device",
    ),
    ("torch.cuda.is_available() False", "program-sees-no-gpu"),
    (
        "code signature in <X> '/x.so' not valid for use in process: mapping process and mapped file (non-platform) have different Team IDs",
        "library-other-team",
    ),
    ("OMP: Error #179: Function Can't open SHM2 failed", "openmp-shared-memory"),
    ("RuntimeError: could not create a primitive descriptor for a matmul primitive", "onednn-primitive"),
    ("Context leak detected, msgtracer returned -1", "coreml-leak-note"),
    (
        "2024-04-10 10:17:33.073537 [E:onnxruntime:, sequential_executor.cc:514 ExecuteKernel] Non-zero status code returned while running CoreML_11777492068329204276_6 node. Name:'CoreMLExecutionProvider_CoreML_11777492068329204276_6_6' Status Message: Exception: model.mm:71 GetStaticOutputShape inferred_shape.size() == coreml_static_shape.size() was false. CoreML static output shape ({1,1,1,800,1}) and inferred shape ({3200,1}) have different ranks.",
        "onnx-coreml",
    ),
    ("Exception Type:    EXC_BAD_ACCESS (SIGSEGV)", "mac-crash-report"),
    ("Could not load this library: libtorchcodec_core7.dylib", "torchcodec-library"),
    (
        "UserWarning: Failed to initialize NumPy: No module named 'numpy' (Triggered internally at tensor_numpy.cpp:84.)",
        "numpy-missing",
    ),
    (
        "ERROR: Could not find a version that satisfies the requirement lmdeploy (from versions: none)",
        "no-wheel-of-any",
    ),
]


@pytest.mark.parametrize(("text", "message"), TEXTS)
def test_texts_of_libraries_are_told_apart(text: str, message: str) -> None:
    assert explain(text).findings[0].message == message


def test_every_text_of_pytorchs_python_files_is_explained() -> None:
    """What torch/mps, torch/_inductor/codegen/mps, torch/amp, torch/serialization ... of 2.1 to 2.15 raise or warn."""
    texts = json.loads((Path(__file__).parent / "python_texts.json").read_text("utf-8"))
    unanswered = [
        f"{one['file']} ({one['first']} to {one['last']}): {one['text']}"
        for one in texts
        if not explain(one["text"]).findings
    ]
    assert unanswered == []


def test_the_reason_goes_before_the_end_of_the_process() -> None:
    text = (
        "libc++abi: terminating due to uncaught exception of type NSException\nzsh: abort      python run.py"
    )
    assert [one.message for one in explain(text).findings] == ["cxx-exception"]
    reason = "RuntimeError: Placeholder storage has not been allocated on MPS device!"
    assert [one.message for one in explain(f"{reason}\n{text}").findings] == ["placeholder-storage"]


def _saved(what: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(what, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: torch.ones(77) + torch.ones(154), "sizes-do-not-match"),
        (lambda: torch.cat([torch.ones(2, 2), torch.ones(3, 3)]), "sizes-do-not-match"),
        (lambda: torch.stack([torch.ones(2), torch.ones(3)]), "sizes-do-not-match"),
        (lambda: torch.ones(2, 3) @ torch.ones(2, 3), "matmul-shapes"),
        (lambda: torch.ones(128).view(1, 1, 64), "invalid-view"),
        (lambda: torch.nn.Conv2d(3, 4, 1)(torch.ones(1, 4, 8, 8)), "channels-do-not-match"),
        (lambda: torch.nn.Embedding(4, 2)(torch.tensor([9])), "index-out-of-range-in-self"),
        (lambda: torch.nn.functional.cross_entropy(torch.ones(1, 2), torch.tensor([7])), "index-out-of-range-in-self"),
        (lambda: torch.ones(2).sum(3), "dimension-out-of-range"),
        (lambda: torch.ones(2).sum().backward(), "autograd-misuse"),
        (lambda: torch.ones(2, requires_grad=True).add_(1), "autograd-misuse"),
        (lambda: torch.ones(2, requires_grad=True).numpy(), "autograd-misuse"),
        (lambda: torch.nn.Linear(2, 2).load_state_dict({"weight": torch.ones(3, 3)}), "state-dict-mismatch"),
        (lambda: torch.ones(3, dtype=torch.int16).mean(), "float-op-on-integers"),
        (lambda: torch.nn.BatchNorm1d(2)(torch.ones(1, 2)), "layer-input-shape"),
        (lambda: torch.ones(2, 2) @ torch.ones(2, 2, dtype=torch.float64), "cpu-dtypes-differ"),
        (lambda: torch.load(io.BytesIO(b"<html>"), weights_only=False), "broken-download"),
        (lambda: torch.load(_saved(Path("x"))), "weights-only"),
    ],
)  # fmt: skip
def test_what_pytorch_raises_on_every_device_is_told(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the type is PyTorch's; the text is what counts)
        wrong()
    found = explain(f"{type(raised.value).__name__}: {raised.value}").findings
    assert found
    assert found[0].message == message
