"""What the installed libraries raise and warn of about devices, GPUs and Macs has an answer of its own."""

from __future__ import annotations

import re
from functools import cache

import pytest

from mpsprobe.knowledge import error_texts
from mpsprobe.knowledge.explain import explain
from mpsprobe.knowledge.quantisation import methods

from . import raised_texts

#: Texts that an owner of a Mac meets: of devices, GPUs and their kernels.
_ABOUT = re.compile(
    r"\b(?:mps|MPS)\b|CUDA|\bMetal\b|mac ?OS|MacOS|Darwin|\barm64\b|[Tt]riton\b|\bGPUs?\b|NVIDIA|\bNCCL\b"
    r"|\bfork|xformers|\bMLX\b"
)

#: Parts of texts about licences, deprecated names, clusters and progress: no fault of a device, or none at all.
_NO_FAULT = (
    "License", "is deprecated", "TRANSFORMERS_TEST_DEVICE", "for more information on how",
    "Disabling it to use alternative", "Ray Tune", "in table", "Device set to use", "_set_device",
    "occupied by other processes", "SLURM", "world size", "FLOPs not found", "mps does not support",
    "multiple of the number of attention heads", "Error in worker process",
    "likely stems from an outside import", "Only 1, 2 and 3 dimensions", "Unexpected device type",
    "may slow down", "offload_buffers", "only using one GPU", "'arm64', 'avx2'", "for XPU support",
    "deterministic mode on GPU",
)  # fmt: skip

PACKAGES = (
    "transformers", "accelerate", "diffusers", "peft", "safetensors", "tokenizers", "huggingface_hub",
    "sentence_transformers", "pytorch_lightning", "lightning_fabric", "torchmetrics", "gguf",
)  # fmt: skip


@cache
def _uninformative() -> frozenset[str]:
    """Return the ids of messages that only say that something failed."""
    told = {
        "asks-for-cuda-device",
        "cuda-required",
        "program-sees-no-gpu",
        "cuda-package-by-pip",
        "package-by-pip",
        "package-version-low",
        "package-stated-missing",
        "requires-package",
        "quantiser-named",
        "deepspeed-named",
        "fp8-training",
        "flash-attention-named",
        "nvidia-kernel-named",
        "triton-named",
    }  # generic in order, not in what they say
    return frozenset(one.id for one in error_texts.messages() if one.generic and one.id not in told)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_library_raises_about_devices_is_told(package: str) -> None:
    pytest.importorskip(package)
    unanswered, seen = [], set[str]()
    for place, text in raised_texts.of_package(package, _ABOUT):
        if text in seen or any(part in text for part in _NO_FAULT):
            continue
        seen.add(text)
        found = {one.message for one in explain(text).findings}
        if not found - _uninformative():
            unanswered.append(f"{place}: {text}")
    assert unanswered == []


def test_texts_are_read_from_the_sources() -> None:
    texts = dict(raised_texts.of_package("accelerate", re.compile("MPS")))
    assert "ValueError: fp16 mixed precision with MPS device requires a Pytorch >= 2.5.0" in texts.values()


def test_what_loading_quantised_weights_raises_is_told() -> None:
    """The texts of data/quantisation.toml, which were met with the releases named there."""
    texts = {
        text
        for method in methods()
        for loading in (*method.loading, *method.diffusers)
        for text in (loading.error, loading.missing)
        if re.match(r"\w+Error: ", text or "")
    }
    assert len(texts) > 20
    assert [text for text in sorted(texts) if not explain(text).findings] == []


@pytest.mark.parametrize(
    "text",
    [
        "NotImplementedError: The operator 'aten::foo' is not currently implemented for the XPU device.",
        "ValueError: Unsupported device: xpu",
        "RuntimeError: unsupported device cuda",
        "ValueError: Model type foo not supported by this exporter",
        "[ring] Rank 3 of 8 ready",
        "[sort] Sorting 12 files",
        "failed to load config",
        "The processor does not support AVX-512, using AVX2",
        "RuntimeError: Triton server is not ready",
        "WARNING: device mps not supported for fp16, using fp32",
        "error: unsupported architecture sparc64",
        "RuntimeError: Float16 is not supported on CPU",
        "torch.compile is only available on macOS 14",
        "Kernel 'my-kernel' not found",
        "openai.AuthenticationError: Error code: 401",
        "ValueError: Unsupported data type: torch.float16, supported_dtypes are [torch.float32]",
        "Unable to get the device of a module, falling back to CPU",
        "MemoryError: Did not find any devices to dispatch model to",
    ],
)
def test_texts_that_only_look_alike_have_no_answer(text: str) -> None:
    assert explain(text).findings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ValueError: fp16 mixed precision requires a GPU (not 'cpu').", "mixed-precision-devices"),
        ("ValueError: fp16 mixed precision requires a GPU (not 'mps').", "setup-without-half"),
        (
            "RuntimeError: [METAL] Command buffer execution failed: Caused GPU Timeout Error "
            "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
            "mlx-gpu-timeout",
        ),
        (
            "ggml_metal_synchronize: error: command buffer 0 failed with status 5\n"
            "error: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "ggml-metal",
        ),
        ("ModuleNotFoundError: No module named 'bitsandbytes'", "bitsandbytes-absent"),
        (
            "llama_model_load: error loading model: error loading model architecture: unknown model "
            "architecture: 'mllama'",
            "gguf-architecture",
        ),
        ("Symbol not found: _cusparseGetErrorString", "cuda-symbol"),
        ("Library not loaded: @rpath/libpython3.10.dylib", "python-library-gone"),
    ],
)
def test_one_message_has_one_finding(text: str, message: str) -> None:
    assert [one.message for one in explain(text).findings] == [message]
