# ruff: noqa: E501 (texts stay as the projects word them)
"""Texts of the engines around language models, and of whole classes: what they mean and what to do."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge.error_texts import Cause
from mpsprobe.knowledge.explain import explain

#: (text, message, cause, a part of the fix); with the thread or the source in which it stands.
TEXTS = [
    # https://github.com/EricLBuehler/mistral.rs/issues/505
    ("Model error: Metal error no metal implementation for bitwise", "candle-metal-missing", Cause.MISSING_OP, "CPU"),
    # candle-core/src/metal_backend/mod.rs
    ("Error: Metal contiguous to_dtype F64 BF16 not implemented", "candle-metal-missing", Cause.MISSING_OP, "f32"),
    ("Error: Metal conv_transpose2d BF16 not implemented", "candle-metal-missing", Cause.MISSING_OP, "f16"),
    # https://github.com/huggingface/candle/pull/2699
    (
        "Metal(KernelError(MatMulNonContiguous { lhs_stride: [64, 4, 2, 1], rhs_stride: [2048, 64, 1024, 1], mnk: (2, 64, 2) }))",
        "candle-matmul-strides",
        Cause.THIRD_PARTY,
        ".contiguous()",
    ),
    # candle-core/src/error.rs
    ("Error: the candle crate has not been built with metal support", "candle-not-built", Cause.NOT_BUILT, "--features metal"),
    ("Error: device mismatch in matmul, lhs: Cpu, rhs: Metal { gpu_id: 0 }", "candle-devices-differ", Cause.DEVICE_MISMATCH, "to_device"),
    ("Error: dtype mismatch in add, lhs: F32, rhs: BF16", "candle-dtypes", Cause.DTYPE, "to_dtype"),
    ("Error: unsupported dtype F64 for op cumsum", "candle-dtypes", Cause.DTYPE, "to_dtype"),
    # https://github.com/EricLBuehler/mistral.rs/issues/1715
    ("  Compiling metal -> air failed. Exit with status: exit status: 1", "rust-metal-build", Cause.INSTALL, "MACOSX_DEPLOYMENT_TARGET"),
    # https://github.com/mlc-ai/mlc-llm/issues/3078
    (
        "InternalError: Check failed: (state != nil) is false: cannot get state: for function fused_dequantize1_NT_matmul5_kernel_2SC compilation failure\nThere is a call to an undefined label",
        "tvm-metal-compile",
        Cause.SHADER,
        "Intel Macs",
    ),
    # https://github.com/mlc-ai/mlc-llm/issues/226
    (
        "TVMError: Fail to compile metal lib:This library format is not supported on this platform (or was built with an old version of the tools)",
        "tvm-metal-compile",
        Cause.SHADER,
        "mlc_llm compile",
    ),
    # cpp/serve/config.cc of mlc-llm
    (
        "Insufficient GPU memory error: The available single GPU memory is 5461.333 MB, which is less than the sum of model weight size (6000.000 MB)",
        "mlc-memory",
        Cause.OUT_OF_MEMORY,
        "smaller",
    ),
    # https://github.com/mlc-ai/mlc-llm/issues/90
    ("Check failed: uniform_sample <= data[0].first (0.0715982 vs. nan)", "mlc-logits-nan", Cause.NUMERICS, "Update"),
    # https://github.com/mlc-ai/mlc-llm/issues/3274
    ("!!!!!!! TVM FFI encountered a Segfault !!!!!!!", "tvm-segfault", Cause.CRASH, "same date"),
    # https://github.com/exo-explore/exo/issues/1932
    ("ValueError: No cycles found with sufficient memory", "exo-memory", Cause.OUT_OF_MEMORY, "smaller"),
    (
        "[ 07:36:16.7396AM | WARNING ] connect error RemoteProtocolError from fe80::4d09:6983:c5a6:d04a%utun4 after 3 attempts; treating as down",
        "exo-network",
        Cause.THIRD_PARTY,
        "Local Network",
    ),
    # strings of xllamacpp 2026.10.11549's wheel for macOS (llama.cpp)
    ("ggml_metal_log_allocated_size: warning: current allocated size is greater than the recommended max working set size", "llama-cpp-memory", Cause.OUT_OF_MEMORY, "context"),
    ("ggml_metal_buffer_init: failed to allocate Metal buffer of 8589934592 bytes (out of memory)", "llama-cpp-memory", Cause.OUT_OF_MEMORY, "context"),
    ("ggml_metal_buffer_type_alloc_buffer: error: failed to allocate buffer, size =  8192.00 MiB", "llama-cpp-memory", Cause.OUT_OF_MEMORY, "context"),
    ("llama_decode: failed to find a memory slot for batch of size 512", "llama-cpp-cache-full", Cause.ARGUMENTS, "-c"),
    ("llama_init_from_model: quantized V cache requires flash_attn to be enabled", "llama-cpp-flash-cache", Cause.ARGUMENTS, "-fa"),
    ("input (900 tokens) is too large to process. increase the physical batch size (current batch size: 512)", "llama-cpp-batch", Cause.ARGUMENTS, "-ub"),
    ("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", "llama-cpp-multimodal", Cause.ARGUMENTS, "--mmproj"),
    ("gguf_init_from_file_impl: tensor 'blk.0.ffn_down.weight' has invalid ggml type 40. should be in [0, 40)", "gguf-type-newer", Cause.ARGUMENTS, "Update"),
    ("ggml_metal_device_init: tensor API disabled for pre-M5 and pre-A19 devices", "llama-cpp-notes", Cause.THIRD_PARTY, "Nothing"),
    # https://github.com/dottxt-ai/outlines/issues/834
    ("ggml_metal_init: skipping kernel_get_rows_bf16                     (not supported)", "llama-cpp-notes", Cause.THIRD_PARTY, "F16"),
    ("load: missing pre-tokenizer type, using: 'default'", "llama-cpp-tokenizer-old", Cause.ARGUMENTS, "newer GGUF"),
    ("ggml_metal_library_compile_pipeline: kernel not found in any metal library: base = 'kernel_x', name = 'kernel_x_f32'", "llama-cpp-kernel-absent", Cause.SHADER, "Update"),
    # https://github.com/oobabooga/textgen/issues/5764
    ("AttributeError: 'NoneType' object has no attribute 'Llama'", "llama-module-none", Cause.INSTALL, "import llama_cpp"),
    # https://github.com/chroma-core/chroma/issues/1701
    (
        "2024-02-08 18:03:11.829324 [W:onnxruntime:, helper.cc:67 IsInputSupported] CoreML does not support input dim > 16384. Input:embeddings.word_embeddings.weight, shape: {30522,384}",
        "onnx-coreml-node-notes",
        Cause.THIRD_PARTY,
        "Nothing",
    ),
    # https://github.com/hiyouga/LlamaFactory/issues/4341
    (
        "UserWarning: for base_model.model.model.layers.31.mlp.gate_proj.lora_A.default.weight: copying from a non-meta parameter in the checkpoint to a meta parameter in the current model, which is a no-op.",
        "weights-into-meta",
        Cause.DEVICE_MISMATCH,
        "one device",
    ),
    # https://github.com/black-forest-labs/flux/issues/19
    (
        "Hardware accelerator e.g. GPU is available in the environment, but no `device` argument is passed to the `Pipeline` object. Model will be on CPU.",
        "pipeline-on-cpu",
        Cause.THIRD_PARTY,
        "device='mps'",
    ),
    # https://github.com/xhinker/sd_embed/issues/14
    (
        "Token indices sequence length is longer than the specified maximum sequence length for this model (80 > 77). Running this sequence through the model will result in indexing errors",
        "tokens-beyond-model",
        Cause.ARGUMENTS,
        "truncation",
    ),
    # vllm_metal/v1/cache_policy.py and platform.py
    ("ValueError: Paged attention: not enough Metal memory for KV cache. Need 4.1 GB.", "vllm-metal-memory", Cause.OUT_OF_MEMORY, "smaller"),
    ("NotImplementedError: Metal/MLX does not support tensor parallelism yet (tensor_parallel_size > 1), alone or combined with pipeline parallelism; only TP=1 is validated.", "vllm-metal-refuses", Cause.THIRD_PARTY, "one GPU"),
    # sglang 0.5.23
    ("RuntimeError: SGLANG_USE_MLX requires an available MLX Metal device", "sglang-on-mac", Cause.THIRD_PARTY, "SGLANG_USE_MLX"),
    # xinference 4.1.0
    ("ValueError: qwen-vl-chat model can't run on Darwin system.", "model-not-on-darwin", Cause.THIRD_PARTY, "ggufv2"),
    # acestep, in xinference 4.1.0
    ("ValueError: MPS device requested but torch.backends.mps.is_available() is False.", "mps-asked-not-there", Cause.NOT_AVAILABLE, "arm64"),
    # transformers 5.24, training_args.py
    ("ValueError: At most one of fp16 and bf16 can be True, but not both", "fp16-and-bf16", Cause.ARGUMENTS, "Keep one"),
    # accelerate 1.15, commands/config/cluster.py and state.py
    ("ValueError: FP8 (either torchao, Transformer Engine or MSAMP) is not installed on this machine.", "fp8-training", Cause.CUDA_ONLY, "bf16"),
    # transformers 5.24, quantizer_quanto.py
    (
        "ValueError: You are attempting to load an model with a device_map that contains a CPU or disk device.This is not supported with quanto when the model is quantized on the fly.",
        "quantised-offload",
        Cause.DEVICE_MISMATCH,
        "one device",
    ),
    # vllm/v1/core/kv_cache_utils.py
    ("ValueError: To serve at least one request with the models's max seq len (32768), (4.50 GiB KV cache is needed, which is larger than the available KV cache memory (4.00 GiB).", "vllm-cache-memory", Cause.OUT_OF_MEMORY, "VLLM_CPU_KVCACHE_SPACE"),
    ("AttributeError: '_OpNamespace' '_C' object has no attribute 'silu_and_mul'", "vllm-ops-missing", Cause.NOT_BUILT, "vllm-metal"),
    # vllm/platforms/cpu.py
    ("WARNING Environment variable VLLM_CPU_KVCACHE_SPACE (GiB) for CPU backend is not set, using 4 by default.", "vllm-cpu-notes", Cause.THIRD_PARTY, "Nothing"),
    # https://github.com/vllm-project/vllm/issues/18362
    ("[W519 11:15:10.000 ProcessGroupGloo.cpp:757] Warning: Unable to resolve hostname to a (local) address. Using the loopback address as fallback.", "gloo-hostname", Cause.THIRD_PARTY, "GLOO_SOCKET_IFNAME"),
    # https://github.com/nomic-ai/gpt4all/issues/1276, https://github.com/marella/ctransformers/issues/10
    ("Found model file at  /Users/u/.cache/gpt4all/WizardLM-13B-V1.2-ggml-q4_0.bin\nInvalid model file", "gpt4all-load", Cause.THIRD_PARTY, "GGUF"),
    ("RuntimeError: Failed to create LLM 'llama' from '/Users/me/wizard-mega-13B.ggmlv3.q4_0.bin'.", "gpt4all-load", Cause.THIRD_PARTY, "llama-cpp-python"),
    # https://github.com/nomic-ai/gpt4all/issues/187
    ("NotImplementedError: Your platform is not supported: macOS-10.16-x86_64-i386-64bit. Current binaries supported are x86 Linux and ARM Macs.", "platform-of-rosetta", Cause.INSTALL, "arm64"),
    # https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1521, 608, 927 and 1189
    ("Failed to load LLM engine from path: /Users/m/.lmstudio/extensions/backends/mlx-llm-mac-arm64-apple-metal-advsimd-1.0.0/llm_engine_mlx_amphibian.node. dlopen(/Users/m/.lmstudio/extensions/backends/mlx-llm-mac-arm64-apple-metal-advsimd-1.0.0/llm_engine_mlx_amphibian.node, 0x0001): Library not loaded: @rpath/libpython3.11.dylib", "lm-studio-runtime", Cause.INSTALL, "runtimes"),
    ("Error when loading model: ModuleNotFoundError: No module named 'mlx_engine'", "lm-studio-runtime", Cause.INSTALL, "runtimes"),
    ("Error in channel handler: Error: Model loading aborted due to insufficient system resources. Overloading the system will likely cause it to freeze.", "lm-studio-guardrail", Cause.OUT_OF_MEMORY, "guardrails"),
    ("Could not find platform independent libraries <prefix>", "python-home-broken", Cause.INSTALL, "PYTHONHOME"),
    # https://github.com/huggingface/trl/issues/7220
    ("Fatal Python error: Segmentation fault\n\nCurrent thread 0x0000000170a3f000 (most recent call first):\n  File \"/x/site-packages/transformers/core_model_loading.py\", line 812 in _materialize_copy", "loader-threads-crash", Cause.CRASH, "HF_DEACTIVATE_ASYNC_LOAD"),
    # https://github.com/huggingface/huggingface_hub/issues/3533
    ("httpx.ConnectError: EOF occurred in violation of protocol (_ssl.c:997)", "tls-cut", Cause.THIRD_PARTY, "proxy"),
    # https://github.com/AutoGPTQ/AutoGPTQ/issues/299
    ("          CUDA_VERSION = \"\".join(torch.version.cuda.split(\".\"))\n      AttributeError: 'NoneType' object has no attribute 'split'", "torch-cuda-version-none", Cause.CUDA_ONLY, "GGUF"),
    # https://github.com/huggingface/diffusers/issues/7498
    ("You are using a model of type clip_text_model to instantiate a model of type . This is not supported for all configurations of models and can yield errors.", "model-of-other-type", Cause.THIRD_PARTY, "Nothing"),
    # https://github.com/ggml-org/llama.cpp/issues/5949 and 10976
    ("ggml_metal_graph_compute_block_invoke: error: unsupported op 'SSM_CONV'\nGGML_ASSERT: ggml-metal.m:834: !\"unsupported op\"", "ggml-op-missing", Cause.MISSING_OP, "Update"),
    ("/x/ggml/src/ggml-metal/ggml-metal.m:1263: unsupported op\nggml_metal_encode_node: error: unsupported op 'CPY'", "ggml-op-missing", Cause.MISSING_OP, "-ctk"),
    # https://github.com/withcatai/node-llama-cpp/issues/629
    ("[node-llama-cpp] ggml_metal_library_init_from_source: error compiling source\n/x/ggml/src/ggml-backend.cpp:62: GGML_ASSERT(buft) failed", "ggml-source-compile", Cause.SHADER, "Update"),
    # https://github.com/ggml-org/llama.cpp/issues/11903
    ("-[MTLDebugDevice newResidencySetWithDescriptor:error:]:2768: failed assertion `device does not support residency sets.'", "residency-sets", Cause.METAL_ASSERTION, "GGML_METAL_NO_RESIDENCY"),
    # https://github.com/ggml-org/llama.cpp/issues/19137
    ("/x/ggml-metal-device.m:612: GGML_ASSERT([rsets->data count] == 0) failed", "ggml-residency-exit", Cause.CRASH, "close()"),
    # https://github.com/ml-explore/mlx-lm/issues/321
    ("ModuleNotFoundError: No module named 'mlx_lm.models.mllama'", "mlx-model-architecture", Cause.THIRD_PARTY, "mlx-vlm"),
    ("ERROR:root:Model type mllama not supported.", "mlx-model-type", Cause.THIRD_PARTY, "mlx-lm"),
    # https://github.com/zai-org/ChatGLM-6B/issues/624
    ("Failed to load cpm_kernels:Unknown platform: darwin", "cpm-kernels", Cause.CUDA_ONLY, "half()"),
    # https://github.com/huggingface/datasets/issues/6417
    ("ValueError: Arrow type extension<arrow.py_extension_type<pyarrow.lib.UnknownExtensionType>> does not have a datasets dtype equivalent.", "datasets-arrow-type", Cause.INSTALL, "pyarrow"),
    # https://github.com/unslothai/unsloth-zoo/issues/87
    ("RuntimeError: One of the subprocesses has abruptly died during map operation.To debug the error, disable multiprocessing.", "datasets-worker-died", Cause.CRASH, "num_proc"),
    ("pyarrow.lib.ArrowMemoryError: malloc of size 64 failed", "arrow-memory", Cause.OUT_OF_MEMORY, "num_proc"),
    # https://github.com/invoke-ai/InvokeAI/issues/6965
    ("ImportError: The bnb modules are not available. Please install bitsandbytes if available on your platform.", "bitsandbytes-absent", Cause.INSTALL, "0.49"),
]  # fmt: skip

TEXTS += [
    # transformers 4.28 to 4.48, trainer_optimizer, modeling_utils, quantizers
    ("ValueError: Trainer tried to instantiate bnb optimizer but bnb is not installed!", "bitsandbytes-too-old", Cause.INSTALL, "adamw_torch"),
    ("ImportError: You have a version of `bitsandbytes` that is not compatible with 8bit quantization, make sure you have the latest version of `bitsandbytes` installed.", "bitsandbytes-too-old", Cause.INSTALL, "0.49"),
    ("ValueError: You cannot cast a GPTQ model in a new `dtype`. Make sure to load the model using `from_pretrained` using the desired `dtype`", "quantised-cast", Cause.DTYPE, "dtype="),
    ("You are attempting to use Flash Attention 2.0 with a model not initialized on GPU. Make sure to move the model to GPU after initializing it on CPU with `model.to('cuda')`.", "flash-attention-notes", Cause.CUDA_ONLY, "sdpa"),
    ("WARNING: You are not running the flash-attention implementation, expect numerical differences.", "flash-attention-notes", Cause.CUDA_ONLY, "nothing"),
    ("ValueError: You are attempting to load an AWQ model with a device_map that contains a CPU or disk device. This is not supported.", "quantised-offload", Cause.DEVICE_MISMATCH, "one device"),
    ("You passed `quantization_config` or equivalent parameters to `from_pretrained` but the model you're loading already has a `quantization_config` attribute.", "quantised-set-aside", Cause.CUDA_ONLY, "GGUF"),
    ("Setting torch_dtype to torch.float16 for int4_weight_only quantization, but only bfloat16 is supported right now.", "torchao-notes", Cause.THIRD_PARTY, "bfloat16"),
    # accelerate 0.20 to 1.2, accelerator.py and utils/modeling.py
    ("ValueError: Unknown mixed precision value: bf17", "mixed-precision-name", Cause.ARGUMENTS, "bf16"),
    ("Current model requires 134219776 bytes of buffer for offloaded layers, which seems does not fit any GPU's remaining memory.", "offload-buffers", Cause.OUT_OF_MEMORY, "device_map"),
    # optimum 1.16.2, exporters/onnx
    ("ValueError: FP16 export is supported only when exporting on GPU. Please pass the option `--device cuda`.", "onnx-export-half", Cause.CUDA_ONLY, "float32"),
    # ctransformers 0.2.27, lib.py
    ("OSError: Precompiled binaries are not available for the current platform. Please reinstall from source using:", "ctransformers-binary", Cause.INSTALL, "CT_METAL"),
]  # fmt: skip

TEXTS += [
    # https://github.com/ollama/ollama/issues/16007, 16858, 14267
    ("500 internal server error: mlx runner failed: error: layer 0: conv1d weight must be 2d after sanitization, got 0d (exit: exit status 1)", "ollama-mlx-weights", Cause.THIRD_PARTY, "pull"),
    ("Error: 500 Internal Server Error: mlx runner failed: Error: layer 0: missing attention q/k norms (exit: exit status 1)", "ollama-mlx-weights", Cause.THIRD_PARTY, "pull"),
    ("Error: failed to load model: 500 Internal Server Error: mlx runner failed:   model.norm.weight (exit: exit status 1)", "ollama-mlx-weights", Cause.THIRD_PARTY, "Update"),
    # https://github.com/ollama/ollama/issues/16460
    ("500 Internal Server Error: mlx runner failed: Error: unsupported architecture: Gemma4ForConditionalGeneration (exit: exit status 1)", "ollama-mlx-architecture", Cause.ARGUMENTS, "Update"),
    # https://github.com/ollama/ollama/issues/15533 and 14200
    ('{"error":"mlx runner failed: Error: failed to initialize MLX: libmlxc.dylib not found (exit: exit status 1)"}', "ollama-mlx", Cause.NOT_AVAILABLE, "ollama.com"),
    ("mlx runner failed: Error: failed to load MLX function symbols (exit: exit status 1)", "ollama-mlx", Cause.NOT_AVAILABLE, "ollama.com"),
    # ollama: x/mlxrunner/client.go, server/sched.go, server/images.go
    ("Error: model requires 20.1 GiB but only 16.0 GiB are available (after 0.5 GiB overhead)", "ollama-mlx-memory", Cause.OUT_OF_MEMORY, "num_ctx"),
    ("Error: qwen: this model may be incompatible with your version of Ollama. If you previously pulled this model, try updating it", "ollama-too-old", Cause.ARGUMENTS, "Update"),
    ("Error: registry.ollama.ai/library/deepseek-r1:latest does not support tools (status code: 400)", "ollama-capability", Cause.ARGUMENTS, "Another model"),
    ("Error: pull model manifest: file does not exist", "ollama-model-name", Cause.ARGUMENTS, "ollama list"),
    ("Error: listen tcp 127.0.0.1:11434: bind: address already in use", "ollama-port", Cause.ARGUMENTS, "OLLAMA_HOST"),
    ("timed out waiting for llama-server to start: ", "ollama-load-timeout", Cause.HANG, "OLLAMA_LOAD_TIMEOUT"),
    # https://github.com/ml-explore/mlx-lm/issues/1390
    ("BrokenPipeError: [Errno 32] Broken pipe", "broken-pipe", Cause.THIRD_PARTY, "client"),
]  # fmt: skip

TEXTS += [
    # https://github.com/swharden/SWHarden.com/issues/16
    ('  File "/x/site-packages/llama_cpp/llama.py", line 365, in __init__\n    assert self.model is not None\nAssertionError', "llama-cpp-load", Cause.THIRD_PARTY, "verbose=True"),
    # https://github.com/huggingface/transformers.js/issues/1634, 369 and 502
    ("Error: Cannot find module '../bin/napi-v6/darwin/x64/onnxruntime_binding.node'", "onnx-node-binding", Cause.INSTALL, "1.23.2"),
    ("Module parse failed: Unexpected character '?' (1:0)\nImport trace for requested module:\n./node_modules/onnxruntime-node/bin/napi-v3/darwin/arm64/onnxruntime_binding.node", "onnx-node-bundled", Cause.INSTALL, "bundle"),
    ("Error: Can't create a session\n    at e.createSessionFinalize (/Users/w", "onnx-model-unread", Cause.THIRD_PARTY, "again"),
    # https://github.com/obra/episodic-memory/issues/82
    ("Error: Failed to load model because protobuf parsing failed.", "onnx-model-unread", Cause.THIRD_PARTY, "again"),
    # https://github.com/microsoft/onnxruntime/issues/24096
    ("libc++abi: terminating due to uncaught exception of type onnxruntime::OnnxRuntimeException: /Users/runner/work/1/s/onnxruntime/core/session/ort_env.cc:92 static void OrtEnv::Release(OrtEnv *) env_ptr == p_instance_.get() was false.", "onnx-env-release", Cause.CRASH, "1.20.1"),
    # https://github.com/ace-step/ACE-Step-1.5/issues/619
    ("torchao: Skipping import of cpp extensions due to incompatible torch version 2.10.0 for torchao version 0.15.0", "torchao-torch-differ", Cause.INSTALL, "Nothing"),
    # https://github.com/ggml-org/llama.cpp/issues/3423
    ("ggml_metal_init: error: load pipeline error(2, CompilerError): SC compilation failure\nThere is a call to an undefined label\nllama_new_context_with_model: ggml_metal_init() failed", "ggml-metal-init", Cause.SHADER, "-ngl 0"),
    # https://github.com/janhq/jan/issues/2920, https://github.com/mudler/LocalAI/issues/6679
    ('ERROR Could not load engine: Could not load library "./engines/cortex.llamacpp/libengine.dylib"', "jan-engine", Cause.THIRD_PARTY, "reinstall"),
    ("could not load model - all backends returned error: [llama-cpp]: failed to load model with internal loader: could not load model: rpc error: code = Canceled desc = ", "localai-backend", Cause.THIRD_PARTY, "--debug"),
    # https://github.com/huggingface/transformers/issues/23970, https://github.com/huggingface/diffusers/pull/13915
    ("No GPU found. A GPU is needed for quantization.", "bitsandbytes", Cause.CUDA_ONLY, "0.49"),
    # transformers.js, src/models/session.js
    ("Error: The device (webgpu) does not support fp16.", "transformers-js-device", Cause.UNSUPPORTED_ARGUMENT, "fp32"),
    # mlx-engine of LM Studio
    ("ValueError: Draft model is not compatible with main model", "lm-studio-limits", Cause.THIRD_PARTY, "draft"),
    # node-llama-cpp
    ("Error: Not enough VRAM to fit the model with the specified settings", "llama-cpp-memory", Cause.OUT_OF_MEMORY, "context"),
    ("Error: The context size is too small to generate a response", "context-too-long", Cause.ARGUMENTS, "larger context"),
    # https://github.com/karpathy/nanoGPT/issues/255
    ("OverflowError: can't convert negative int to unsigned", "decode-out-of-range", Cause.NUMERICS, "-100"),
    # torchtune 0.6.1, training/precision.py, recipes and utils/_device.py
    ("RuntimeError: bf16 precision was requested but not available on this hardware. Please use fp32 precision instead.", "half-refused-by-recipe", Cause.DTYPE, "fp32"),
    ("ValueError: fp16 precision is not supported in this recipe. Please use fp32 or bf16.", "half-refused-by-recipe", Cause.DTYPE, "fp32"),
    ("RuntimeError: The device mps is not available on this machine.", "mps-asked-not-there", Cause.NOT_AVAILABLE, "arm64"),
    # https://github.com/huggingface/text-generation-inference/issues/2560
    ('InvalidBaseImagePlatform: Base image ghcr.io/x was pulled with platform "linux/amd64", expected "linux/arm64" for current build', "docker-platform", Cause.INSTALL, "--platform"),
    # https://github.com/huggingface/text-embeddings-inference/issues/131 and 611
    ("error: failed to run custom build command for `objc_exception v0.1.2`", "metal-in-container", Cause.NOT_AVAILABLE, "macOS"),
    ("E: Unable to locate package intel-oneapi-mkl-devel", "intel-package-on-arm", Cause.INSTALL, "arm64"),
    # https://github.com/ollama/ollama/issues/719
    ("CUDA error 35 at /go/src/x/llama.cpp/ggml/ggml-cuda.cu:4883: CUDA driver version is insufficient for CUDA runtime version", "ggml-built-for-cuda", Cause.CUDA_ONLY, "brew"),
]  # fmt: skip

TEXTS += [
    # https://github.com/vllm-project/vllm-metal/issues/16, 100 and 171
    ("TypeError: init_batch_invariance() missing 1 required positional argument: 'attention_backend'", "vllm-metal-versions", Cause.INSTALL, "install.sh"),
    ('  File "/Users/x/.venv-vllm-metal/lib/python3.12/site-packages/vllm_metal/v1/worker.py", line 5, in <module>\n    from vllm.v1.worker import Foo\nImportError: cannot import name \'Foo\' from \'vllm.v1.worker\' (/Users/x/vllm/v1/worker.py)', "vllm-metal-versions", Cause.INSTALL, "install.sh"),
    ("ImportError: cannot import name 'MambaCache' from 'mlx_lm.models.cache' (/Users/x/lib/python3.12/site-packages/mlx_lm/models/cache.py)", "mlx-names-moved", Cause.INSTALL, "program itself first"),
    ("    assert request.num_output_placeholders >= 0\nAssertionError", "vllm-placeholders", Cause.THIRD_PARTY, "--no-async-scheduling"),
    # https://github.com/instructlab/instructlab/issues/1866
    ("Failed to determine backend: Cannot determine which backend to use:", "instructlab-backend", Cause.THIRD_PARTY, "--model-path"),
    # https://github.com/PromtEngineer/localGPT/issues/145
    ("NameError: name 'autogptq_cuda_256' is not defined", "cuda-extension-undefined", Cause.CUDA_ONLY, "GGUF"),
    ("NameError: name 'flash_attn_func' is not defined", "cuda-extension-undefined", Cause.CUDA_ONLY, "sdpa"),
    ("NameError: name 'triton' is not defined", "cuda-extension-undefined", Cause.CUDA_ONLY, "without it"),
    ("NameError: name 'init_empty_weights' is not defined", "optional-package-undefined", Cause.INSTALL, "accelerate"),
    ("NameError: name 'bnb' is not defined", "optional-package-undefined", Cause.INSTALL, "bitsandbytes>=0.49"),
    ('  File "/Users/x/lib/python3.12/site-packages/transformers/integrations/accelerate.py", line 61, in <module>\n    ) -> nn.Module:\nNameError: name \'nn\' is not defined', "torch-disabled-in-library", Cause.INSTALL, "pip install -U torch"),
    # https://github.com/oobabooga/textgen/issues/3328
    ("2023-07-27 01:41:37 WARNING:Exllama module failed to load. Will attempt to load from repositories.", "exllama-absent", Cause.CUDA_ONLY, "llama.cpp"),
    # llama_cpp/llama.py
    ('RuntimeWarning: Detected duplicate leading "<|begin_of_text|>" in prompt, this will likely reduce response quality, consider removing it...', "start-token-twice", Cause.THIRD_PARTY, "add_bos=False"),
    # https://github.com/h2oai/h2ogpt/issues/572
    ('GGML_ASSERT: /T/llama-cpp-python_7/vendor/llama.cpp/ggml-metal.m:795: false && "not implemented"', "ggml-op-missing", Cause.MISSING_OP, "n_gpu_layers=0"),
    # https://github.com/h2oai/h2ogpt/issues/94
    ("dlopen(/opt/homebrew/lib/python3.11/site-packages/bitsandbytes/libbitsandbytes_cpu.so, 0x0006): tried: '/x/libbitsandbytes_cpu.so' (not a mach-o file)", "bitsandbytes-foreign-library", Cause.INSTALL, "bitsandbytes>=0.49"),
    # https://github.com/ollama/ollama/issues/11827 and 2753
    ("Error: 500 Internal Server Error: unable to load model: /Users/c/.ollama/models/blobs/sha256-c27536640e410032865dc68781d80a08b98f8db5e93575919af8ccc0568aeb4f", "ollama-blob-unreadable", Cause.THIRD_PARTY, "server.log"),
    ("Error: error loading model /Users/b/.ollama/models/blobs/sha256:59bb50d8116b6a1f", "ollama-blob-unreadable", Cause.THIRD_PARTY, "Update Ollama"),
    # https://github.com/ollama/ollama/issues/460
    ("ValueError: Ollama call failed with status code 400. Details: stat /Users/x/.ollama/models/manifests/registry.ollama.ai/library/llama2/13b: no such file or directory", "ollama-manifest-absent", Cause.THIRD_PARTY, "ollama pull"),
    # https://github.com/techjarves/Portable-AI-USB/issues/58
    ("serve command not supported, use ollama", "ollama-app-binary", Cause.THIRD_PARTY, "Contents/Resources/ollama"),
    # https://github.com/ollama/ollama/issues/13054 and 2914
    ('Error: do embedding request: Post "http://127.0.0.1:61135/embedding": EOF', "ollama-answer-broken-off", Cause.THIRD_PARTY, "shorter"),
    ('Error: Post "http://127.0.0.1:11434/api/chat": EOF', "ollama-answer-broken-off", Cause.THIRD_PARTY, "server.log"),
    # https://github.com/tobi/qmd/issues/489
    ("ggml_metal_init: error: failed to create command queue\nggml_backend_metal_device_init_backend: error: failed to allocate context", "ggml-no-command-queue", Cause.NOT_AVAILABLE, "outside a sandbox"),
    # https://github.com/ggml-org/llama.cpp/issues/5236
    ("ggml_backend_metal_buffer_from_ptr: error: failed to allocate buffer, size =     0.00 MiB\nllama_model_load: error loading model: failed to allocate buffer\nllama_load_model_from_file: failed to load model", "ggml-empty-buffer", Cause.THIRD_PARTY, "--no-mmap"),
    # https://github.com/abetlen/llama-cpp-python/issues/52
    ("AttributeError: dlsym(0x308a36490, llama_context_default_params): symbol not found", "llama-library-symbol", Cause.INSTALL, "llama-cpp-python"),
    # https://github.com/chroma-core/chroma/issues/2555
    ("[E:onnxruntime:, sequential_executor.cc:516 ExecuteKernel] Non-zero status code returned while running CoreML_2809954737722992935_1 node. Name:'CoreMLExecutionProvider_CoreML_1' Status Message: Error executing model: Error computing NN outputs.", "onnx-coreml-run", Cause.THIRD_PARTY, "CPUExecutionProvider"),
    # https://github.com/Gourieff/sd-webui-reactor/issues/177
    ("ImportError: Unable to import dependency onnxruntime.", "onnxruntime-not-imported", Cause.INSTALL, "pip install onnxruntime"),
    # diffusers/models/modeling_utils.py
    ("Cannot initialize model with low cpu memory usage because `accelerate` was not found in the environment.", "accelerate-absent-note", Cause.INSTALL, "pip install accelerate"),
    # https://github.com/h2oai/h2ogpt/issues/840
    ("Fatal Python error: Illegal instruction", "illegal-instruction-in-python", Cause.INSTALL, "arm64"),
    # https://github.com/exo-explore/exo/issues/2156, 1554, 1726 and 1458
    ("ImportError: libmlx.so: cannot open shared object file: No such file or directory", "mlx-on-linux", Cause.INSTALL, "mlx[cpu]"),
    ("Failed to build `mlx @ git+https://github.com/x/mlx.git@148419`\n  ├─▶ The build backend returned an error\n  ╰─▶ Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)", "mlx-built-from-repository", Cause.INSTALL, "MetalToolchain"),
    ("error: 'builtins.head' called on an empty list", "exo-flake", Cause.THIRD_PARTY, "uv run exo"),
    ("Exception: EXC_CRASH / SIGABRT (Abort trap: 6)\n  [libmlx.dylib] mlx::core::gpu::check_error(MTL::CommandBuffer*)", "mlx-check-error-crash", Cause.COMMAND_BUFFER, "smaller model"),
    # https://github.com/LostRuins/koboldcpp/issues/2276 and https://github.com/ggml-org/whisper.cpp/issues/1314
    ("ggml/src/ggml-metal/ggml-metal-ops.cpp:203: unsupported op", "ggml-op-missing", Cause.MISSING_OP, "-ngl 0"),
    ('GGML_ASSERT(false && "MUL MAT-MAT not implemented");', "ggml-op-missing", Cause.MISSING_OP, "Update"),
    # https://github.com/microsoft/mattergen/issues/174 and https://github.com/instructlab/instructlab/issues/1180
    ("  client error (Connect)\n  invalid peer certificate: UnknownIssuer", "ssl-certificates", Cause.INSTALL, "UV_SYSTEM_CERTS"),
    ("(MaxRetryError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with url: /api/models/x (Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1006)')))\")", "ssl-certificates", Cause.INSTALL, "certifi"),
    # transformers and TRL: names of arguments before and after
    ("TypeError: TrainingArguments.__init__() got an unexpected keyword argument 'evaluation_strategy'", "hf-argument-renamed", Cause.ARGUMENTS, "eval_strategy"),
    ("TypeError: Trainer.__init__() got an unexpected keyword argument 'tokenizer'", "hf-argument-renamed", Cause.ARGUMENTS, "processing_class"),
    ("TypeError: SFTTrainer.__init__() got an unexpected keyword argument 'max_seq_length'", "hf-argument-renamed", Cause.ARGUMENTS, "SFTConfig"),
    ("FutureWarning: 'cached_download' is the legacy way to download files from the HF hub, please consider upgrading to 'hf_hub_download'", "hf-notes", Cause.THIRD_PARTY, "Nothing must be done"),
    ("Xet Storage is enabled for this repo, but the 'hf_xet' package is not installed. Falling back to regular HTTP download.", "hf-notes", Cause.THIRD_PARTY, "pip install hf_xet"),
    # Unsloth, axolotl, Xinference, SGLang, torchao, vllm-metal, langchain_community and AutoRound (their sources)
    ("Pinning the speculative drafter to CPU: this Mac's Metal device is virtualised.", "metal-virtualised", Cause.NOT_AVAILABLE, "outside the virtual machine"),
    ("MLX self-heal failed (staying chat-only): timeout", "unsloth-mlx-stack", Cause.INSTALL, "unsloth studio update"),
    ("SystemError: No CUDA/mps/npu device found", "no-accelerator-found", Cause.NOT_AVAILABLE, "arm64"),
    ("RuntimeError: The installed mlx-vlm does not read video.", "mlx-package-too-old", Cause.INSTALL, "Update the program"),
    ("RuntimeError: Cannot create MLX KV cache. Ensure mlx-lm version >= 0.20.0", "mlx-package-too-old", Cause.INSTALL, "mlx-lm"),
    ("AssertionError: Tried to initialize mlx for a single node instance", "mlx-distributed-alone", Cause.THIRD_PARTY, "mlx.launch"),
    ("RuntimeError: linear:afpwx quantization can only run on mps device!", "mps-only-quantiser", Cause.ARGUMENTS, "device='mps'"),
    ("RuntimeError: Metal frame capture requires MTL_CAPTURE_ENABLED=1 in the process environment.", "metal-capture-off", Cause.ARGUMENTS, "MTL_CAPTURE_ENABLED=1"),
    ("ValueError: vLLM backend is not supported on macOS.", "langchain-on-mac", Cause.CUDA_ONLY, "ChatOllama"),
    ("MPS detected. Using CPU by default to avoid potential memory issues. Set --device_map=mps to force MPS usage.", "autoround-mps-note", Cause.THIRD_PARTY, "--device_map=mps"),
    # langchain, datasets, accelerate and transformers of other releases
    ("ModuleNotFoundError: No module named 'langchain.text_splitter'", "langchain-moved", Cause.INSTALL, "langchain_text_splitters"),
    ("ImportError: cannot import name 'Ollama' from 'langchain.llms' (/Users/x/langchain/llms/__init__.py)", "langchain-moved", Cause.INSTALL, "langchain_ollama"),
    ("OSError: [Errno 63] File name too long: '/Users/x/.cache/huggingface/datasets/_Users_x.lock'", "file-name-too-long", Cause.THIRD_PARTY, "HF_HOME"),
    ("AttributeError: 'Adafactor' object has no attribute 'train'", "optimizer-train", Cause.INSTALL, "accelerate"),
    ("AttributeError: 'AcceleratorState' object has no attribute 'distributed_type'", "accelerator-state-half", Cause.THIRD_PARTY, "Restart"),
    ("ValueError: Asking to pad but the tokenizer does not have a padding token.", "no-padding-token", Cause.ARGUMENTS, "eos_token"),
    ("ValueError: Cannot use chat template functions because tokenizer.chat_template is not set", "no-chat-template", Cause.ARGUMENTS, "-Instruct"),
    ("AttributeError: 'LlamaAttention' object has no attribute 'rotary_emb'", "attention-code-moved", Cause.INSTALL, "transformers<4.48"),
    # ggml/src/gguf.cpp, and llama.cpp of 2023
    ("gguf_init_from_file: invalid magic characters tjgg(k.\nerror loading model: llama_model_loader: failed to load model from /Users/s/x.bin", "ggml-file-of-old", Cause.THIRD_PARTY, "GGUF version"),
    ("gguf_init_from_file_impl: invalid magic characters: 'vers', expected 'GGUF'", "gguf-file-is-something-else", Cause.THIRD_PARTY, "git lfs pull"),
    ("llama.cpp: error: unknown (magic, version) combination: 46554747, 00000001; is this really a GGML file?", "ggml-build-of-old", Cause.INSTALL, "llama-cpp-python"),
    # src/llama-context.cpp and src/llama-batch.cpp of llama.cpp
    ("llama_decode: failed to decode, ret = 1", "llama-decode-returned", Cause.ARGUMENTS, "larger context"),
    ("RuntimeError: llama_decode returned -3", "llama-decode-returned", Cause.ARGUMENTS, "-ngl"),
    ("RuntimeError: llama_decode returned 1", "llama-cpp-cache-full", Cause.ARGUMENTS, "n_ctx"),
    ("init: the tokens of sequence 0 in the input batch have inconsistent sequence positions", "llama-sequence-positions", Cause.THIRD_PARTY, "llm.reset()"),
    # packages without files for macOS (PyPI)
    ("ModuleNotFoundError: No module named 'flash_attn_3'", "cuda-package-missing", Cause.CUDA_ONLY, "sdpa"),
    ("ModuleNotFoundError: No module named 'deep_gemm'", "cuda-package-missing", Cause.CUDA_ONLY, "CUDA"),
    ("ModuleNotFoundError: No module named 'nunchaku'", "cuda-package-missing", Cause.CUDA_ONLY, "GGUF"),
    ("ImportError: cannot import name 'flash_attn_func' from 'flash_attn' (unknown location)", "cuda-extension-undefined", Cause.CUDA_ONLY, "sdpa"),
]  # fmt: skip

#: Classes: (text, message, the part of the text that the answer names); from accelerate, transformers, trl and GPTQModel.
CLASSES = [
    ("ImportError: Liger is required to use `use_liger_kernel` as the GRPO loss. Run `pip install liger-kernel`.", "cuda-package-by-pip", "liger-kernel"),
    ("ImportError: mistral_format=True requires `mistral-common`. Install it with: pip install mistral-common", "package-by-pip", "mistral-common"),
    ("ImportError: resolve_ids requires the `datasets` library. Install it with `pip install datasets`.", "package-by-pip", "datasets"),
    ("ImportError: Found an incompatible version of torchao. Found version 0.9.0, but only versions above 0.16.0 are supported", "package-version-low", "torchao"),
    ("ValueError: You can't customize device placements with DeepSpeed or Megatron-LM.", "deepspeed-named", ""),
    ("ValueError: Trying to use the marlin backend, but the runtime requirements were not met: x", "nvidia-kernel-named", "marlin"),
    ("ValueError: `padding_free` requires `flash_attn: flash_attention_2`.", "flash-attention-named", ""),
    ("NotImplementedError: Unsupported GGUF Triton qtype: Q2_K", "triton-named", ""),
    ("ValueError: AWQ (either `autoawq` or `llmawq`) is not available. Please install it with `pip install autoawq` or check out the installation guide", "quantiser-named", "AWQ"),
    ("NotImplementedError: gptq model not support merge lora adapter", "quantiser-named", "gptq"),
    ("ImportError: Please pip install rarfile", "package-by-pip", "rarfile"),
    ("ImportError: The required package 'scipy' is not installed. Please install it to continue.", "package-stated-missing", "scipy"),
    ("ImportError: Megatron is not installed. please build it from source.", "package-stated-missing", "Megatron"),
    # https://github.com/RunanywhereAI/wally/issues/14
    ("  MetalRT requires Apple M3 or later.\n  Your Mac uses an M1/M2 chip which doesn't support Metal 3.1 shaders.\n  Please use llama.cpp instead: rcli engine llamacpp", "newer-apple-chip", ""),
    ("[service_generate] MLX diffusion failed (shape); falling back to PyTorch.", "mlx-falls-back", "PyTorch"),
    ("ValueError: ControlNet is not supported on the MLX engine.", "program-on-mlx-refuses", ""),
    ("RuntimeError: MLX OCR engine only works on Apple silicon Macs.", "program-on-mlx-refuses", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message", "cause", "fix"), TEXTS)
def test_an_engines_text_has_cause_and_fix(text: str, message: str, cause: Cause, fix: str) -> None:
    found = explain(text).findings
    assert [one.message for one in found] == [message]
    assert found[0].cause is cause
    assert fix in found[0].fix


@pytest.mark.parametrize(("text", "message", "package"), CLASSES)
def test_a_class_of_texts_is_told(text: str, message: str, package: str) -> None:
    found = explain(text).findings
    assert [one.message for one in found] == [message]
    assert not package or package in found[0].values.values()


@pytest.mark.parametrize(
    "text",
    [
        "$ pip install numpy",
        "Collecting foo\n  Downloading foo-1.0.whl",
        "ValueError: x must be > 3",
        "RuntimeError: device mismatch between a and b",
        "KeyError: 'llama'",
        "Error while loading library: permission denied",
        "srv log: failed to allocate a session",
        "2024-01-01 failed to find user",
        "ValueError: requires n >= 3 samples",
        "AttributeError: 'NoneType' object has no attribute 'lower'",
        "NameError: name 'x' is not defined",
        "NameError: name 'torch' is not defined",
        "mlx-lm version: 0.31.0",
        "AttributeError: 'Dog' object has no attribute 'train'",
        "DecodeError: MessagePack buffer extension has invalid metadata",
        "RuntimeError: Couldn't determine number of kv heads",
        "ValueError: cube_sparse_attn requires --attention-backend-config with local_cube_size",
        'Get "https://example.com/api/v2/load": EOF',
        "TypeError: unsupported dtype object for op sort_values",
        "The gas giants burn triton",
        "TypeError: Ampere() takes no arguments",
        "RuntimeError: Model is loaded.",
        "ValueError: This model does not support audio input. Please check whether the correct `template` is used.",
        "ValueError: model is not installed",
        "TypeError: this function does not support tools",
        "NotImplementedError: mps does not support embeddings of that kind",
        "ValueError: Target modules {'q_proj', 'v_proj'} not found in the base model.",
    ],
)
def test_texts_of_other_things_have_no_answer(text: str) -> None:
    assert explain(text).findings == ()
