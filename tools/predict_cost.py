"""Measure the cost of predictions: CPU seconds without imports and peak memory, in a new process for each model.

    python tools/predict_cost.py
    python tools/predict_cost.py --releases

print the tables of docs/predict.md: predictions for one release, and for all of them, in one call (`--torch all`)
and one by one. Alpamayo is included where its package is installed (PYTHONPATH).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsprobe.models.adapter import Adapter

#: A target with an adapter of its own.
ALPAMAYO = "Alpamayo-R1-10B"

#: Class and config, after the public configs (Qwen/Qwen3-VL-8B-Instruct, meta-llama/Llama-4-Scout's text part).
MODELS: list[tuple[str, dict[str, Any]]] = [
    (
        "LlamaForCausalLM",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "rope_theta": 500000.0,
        },
    ),
    (
        "Qwen3VLForConditionalGeneration",
        {
            "text_config": {
                "vocab_size": 151936,
                "hidden_size": 4096,
                "intermediate_size": 12288,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "max_position_embeddings": 262144,
                "rope_theta": 5000000,
                "rope_scaling": {
                    "rope_type": "default",
                    "mrope_section": [24, 20, 20],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "depth": 27,
                "hidden_size": 1152,
                "out_hidden_size": 4096,
                "deepstack_visual_indexes": [8, 16, 24],
            },
        },
    ),
    (
        "Llama4ForCausalLM",
        {
            "vocab_size": 202048,
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
        },
    ),
]


def measure(name: str, config: dict[str, Any]) -> None:
    """Predict one model in this process, with the forecast that the command makes, and print a row."""
    import resource
    import time

    from mpsprobe.forecast import ForecastOptions
    from mpsprobe.prediction.assemble import predict
    from mpsprobe.prediction.observed import WeightlessTarget
    from mpsprobe.run import Mac

    adapter = _alpamayo() if name == ALPAMAYO else _of_transformers(name, config)
    begun = time.process_time()
    prediction = predict(WeightlessTarget(name, adapter, "auto"), Mac("2.13"), ForecastOptions())
    seconds = time.process_time() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    calls = sum(use.count for use in prediction.op_uses)
    print(  # noqa: T201
        f"| {name} | {(prediction.target.parameters or 0) / 1e9:.1f} B | {seconds:.1f} s | {peak / 1e9:.2f} GB "
        f"| {len(prediction.op_uses):,} | {calls:,} |"
    )


def measure_releases(name: str, config: dict[str, Any]) -> None:
    """Predict one model for all releases in one call, then for each of them, and print a row with both times."""
    import time

    from mpsprobe.knowledge import ops
    from mpsprobe.prediction.assemble import predict
    from mpsprobe.prediction.command import predict_releases
    from mpsprobe.prediction.observed import WeightlessTarget
    from mpsprobe.run import Mac

    target = WeightlessTarget(
        name, _alpamayo() if name == ALPAMAYO else _of_transformers(name, config), "auto"
    )
    steps: list[str] = []
    predict(target, Mac("2.13"))  # warms up what is imported and made once
    begun = time.process_time()
    predict_releases(target, Mac("2.13"), steps.append)
    between = time.process_time()
    for release in ops.releases():
        predict(target, Mac(release))
    joined, single = between - begun, time.process_time() - between
    print(f"| {name} | {len(steps)} | {joined:.1f} s | {single:.1f} s | {joined / single:.2f} |", flush=True)  # noqa: T201


def _of_transformers(name: str, config: dict[str, Any]) -> Adapter:
    from pathlib import Path

    import transformers

    from mpsprobe.models import profile
    from mpsprobe.models.adapter import Weights
    from mpsprobe.models.weightless.config_only import random_init
    from mpsprobe.models.weightless.from_config import Blueprint

    cls = getattr(transformers, name)
    generic = profile.load("transformers")
    generic.inference["max_new_tokens"] = 8
    blueprint = Blueprint(name, cls, cls.config_class(**config, dtype="bfloat16"), Path("/nonexistent"))
    return random_init(blueprint, generic, Weights.NONE)[0]


def _alpamayo() -> Adapter:
    """Return Alpamayo at its published size; its imports and its folder are made before, so that they are not timed."""
    from mpsprobe.models import profile
    from mpsprobe.models.adapter import Weights
    from mpsprobe.models.alpamayo import published, repository
    from mpsprobe.models.alpamayo.adapter import AlpamayoAdapter

    published.model_class()
    published.imported("helper")
    adapter = AlpamayoAdapter(repository.ensure(), profile.load("alpamayo-r1"))
    adapter.weights = Weights.NONE
    return adapter


def main() -> None:
    """Start a child for each model, so that each has its own peak memory; measure in this process if it is one."""
    every = "--releases" in sys.argv
    arguments = [one for one in sys.argv[1:] if one != "--releases"]
    if len(arguments) == 2:
        (measure_releases if every else measure)(arguments[0], json.loads(arguments[1]))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread")  # noqa: T201
    head = ["model", "parameters", "CPU", "peak RSS", "op uses", "calls"]
    if every:
        head = ["model", "runs", "joined", "one by one", "ratio"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)  # noqa: T201
    alpamayo: list[tuple[str, dict[str, Any]]] = [(ALPAMAYO, {})] if find_spec("alpamayo_r1") else []
    for name, config in [*MODELS, *alpamayo]:
        subprocess.run(
            [sys.executable, __file__, name, json.dumps(config), *(["--releases"] if every else [])],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


if __name__ == "__main__":
    main()
