"""Measure the cost of the virtual device: CPU seconds, the least of several runs, on one thread.

    OMP_NUM_THREADS=1 PYTHONPATH=src python tools/bench_device.py

docs/virtual-device.md holds the figures of the last run.
"""

from __future__ import annotations

import copy
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from mpsprobe.device.virtual.memoryless.engine import MemorylessKernels
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import emulate, predict


class _Bare(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Count(Quiet):
    def __init__(self) -> None:
        self.ops = 0

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.ops += 1


def _least(run: Callable[[], object], times: int = 15) -> float:
    with torch.no_grad():
        run()
        run()
        found = []
        for _ in range(times):
            start = time.process_time()
            run()
            found.append(time.process_time() - start)
    return min(found) * 1e3


def _within(context: Callable[[], Any], run: Callable[[], object]) -> Callable[[], None]:
    def once() -> None:
        with context():
            run()

    return once


def per_forward() -> None:
    """Print the CPU time of a small Llama's forward pass in milliseconds: plain, in other modes and on the device."""
    config = LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4
    )
    model, ids = LlamaModel(config).eval(), torch.arange(16)[None]

    def forward() -> object:
        return model(input_ids=ids, use_cache=False)

    rows = [
        ("plain CPU", _least(forward)),
        ("bare dispatch mode", _least(_within(_Bare, forward))),
        ("torch.profiler", _least(_within(lambda: profile(activities=[ProfilerActivity.CPU]), forward))),
        ("FlopCounterMode", _least(_within(lambda: FlopCounterMode(display=False), forward))),
    ]
    start = time.process_time()
    with emulate():
        rows.append(("first entry of emulate", (time.process_time() - start) * 1e3))
    start = time.process_time()
    with emulate():
        rows.append(("later entry of emulate", (time.process_time() - start) * 1e3))
    for name, observer in (("emulate", None), ("emulate, observed", _Count())):
        with emulate(observer=observer):
            on_device, device_ids = copy.deepcopy(model).to("mps"), ids.to("mps")
            rows.append((name, _least(lambda m=on_device, i=device_ids: m(input_ids=i, use_cache=False))))  # type: ignore[misc]
    with predict() as session:
        assert isinstance(session.kernels, MemorylessKernels)
        session.kernels.float_limit = 0
        with torch.device("mps"):
            memoryless = LlamaModel(config).eval()
        rows.append(("predict", _least(lambda: memoryless(input_ids=ids.to("mps"), use_cache=False))))
    for name, milliseconds in rows:
        sys.stdout.write(f"{name:26} {milliseconds:8.1f} ms\n")


def ratios(tokens: int = 16, rounds: int = 30) -> None:
    """Print the ratio of emulated to plain CPU time of a Llama with 134 M parameters, for a forward pass and decoding.

    In each round both are timed, the order alternates, and the median is that of the rounds' ratios.
    """
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    model, ids = LlamaForCausalLM(config).eval(), torch.arange(tokens)[None]
    wanted = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), emulate():
        on_device, device_ids = copy.deepcopy(model).to("mps"), ids.to("mps")
        for name, plain, emulated, times in (
            ("forward pass", lambda: model(input_ids=ids), lambda: on_device(input_ids=device_ids), rounds),
            (
                f"generate, {tokens} tokens with a cache",
                lambda: model.generate(ids, **wanted),
                lambda: on_device.generate(device_ids, **wanted),
                rounds // 3,
            ),
        ):
            found = [_ratio(emulated, plain, swapped=bool(k % 2)) for k in range(times + 2)][2:]
            low, median, high = statistics.quantiles(found, n=4)
            sys.stdout.write(
                f"emulated / plain, 134 M Llama, {tokens} tokens, {name}: {median:.3f} (quartiles {low:.3f} to "
                f"{high:.3f}, {times} rounds)\n"
            )


def _ratio(emulated: Callable[[], object], plain: Callable[[], object], *, swapped: bool) -> float:
    """Return the CPU time of `emulated` divided by that of `plain`; `swapped` runs `plain` first."""
    seconds = []
    for run in (plain, emulated) if swapped else (emulated, plain):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return seconds[1] / seconds[0] if swapped else seconds[0] / seconds[1]


def _llama_8b() -> tuple[Any, dict[str, torch.Tensor]]:
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.arange(3, 20)[None]}


def _llama4_108b() -> tuple[Any, dict[str, torch.Tensor]]:
    config = Llama4TextConfig(num_local_experts=16, pad_token_id=0)
    return Llama4ForCausalLM(config), {"input_ids": torch.arange(3, 15)[None]}


def _qwen3_vl() -> tuple[Any, dict[str, torch.Tensor]]:
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = {
        "vocab_size": 155000, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rope_scaling": rope,
    }  # fmt: skip
    vision = {
        "depth": 27,
        "hidden_size": 1152,
        "out_hidden_size": 4096,
        "deepstack_visual_indexes": [8, 16, 24],
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision)
    patches, size = 16 * 24, 3 * 2 * 16**2
    image = [config.image_token_id] * (patches // 4)
    ids = torch.tensor([[5, config.vision_start_token_id, *image, config.vision_end_token_id, 7]])
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.zeros(patches, size, dtype=torch.bfloat16),
        "image_grid_thw": torch.tensor([[1, 16, 24]]),
    }
    return Qwen3VLForConditionalGeneration(config), inputs


def full_size() -> None:
    """Print the CPU time of models at full size in `predict`: to build one, then for prefill and 8 tokens."""
    for name, make in (("Llama 8B", _llama_8b), ("Qwen3-VL 8.8B", _qwen3_vl), ("Llama-4 108B", _llama4_108b)):
        ops = _Count()
        start = time.process_time()
        with predict(memory_gb=512, observer=ops) as session:
            torch.set_default_dtype(torch.bfloat16)
            with torch.device("mps"):
                model, inputs = make()
            torch.set_default_dtype(torch.float32)
            built = time.process_time()
            ops.ops = 0
            on_device = {key: value.to("mps") for key, value in inputs.items()}
            mask = torch.ones_like(on_device["input_ids"])
            model.eval().generate(
                **on_device,
                attention_mask=mask,
                max_new_tokens=8,
                min_new_tokens=8,
                do_sample=False,
                pad_token_id=0,
            )
            ran = time.process_time()
            billions = sum(p.numel() for p in model.parameters()) / 1e9
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        sys.stdout.write(
            f"{name:16} {billions:6.1f} G parameters  build {built - start:5.2f} s  run {ran - built:5.2f} s  "
            f"{ops.ops} ops  peak of the Mac {session.memory.peak / 1e9:.1f} GB  resident here {rss:.2f} GB\n"
        )
        del model


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"torch {torch.__version__}\n")
    per_forward()
    ratios()
    full_size()
