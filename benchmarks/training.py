"""Compare predicted memory and time of optimisation steps with measured ones.

    python benchmarks/training.py                    # the table, from committed measurements
    python benchmarks/training.py --measure FILE     # measure on the CUDA device at hand, and write FILE

The models are those of `zoo.py`, with random weights at full size. Each is trained fully with AdamW in float32,
some with LoRA in bfloat16. The peak of later steps is compared, as memory of tensors: the sum over memoryless
tensors, and `torch.cuda.max_memory_allocated` without cuBLAS's workspace. Attention is eager on both sides, because
CUDA has fused kernels that store no scores, and MPS trains without them.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch

import zoo
from mpsprobe.models import profile
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.training import TrainingAdapter, TrainingPlan
from zoo import Case

MEASURED = Path(__file__).parent / "measured" / "training_h200.jsonl"
#: How much slower the host was in the session in which they were measured than in those since (`speed.toml`).
_SLOWER = 1.2
#: Cases of the zoo by name, with the ways in which each is trained.
_TRAINED: dict[str, tuple[str, ...]] = {
    "qwen3 0.6B": ("full", "lora"),
    "gpt2-medium": ("full",),
    "opt-125m": ("full", "lora"),
    "mixtral, 8 layers": ("lora",),
    "mamba-130m": ("full", "lora"),
    "t5-large": ("full", "lora"),
    "bert-base, 64 x 256": ("full", "lora"),
    "roberta-large, 8 x 128": ("full",),
    "modernbert-base, 1 x 512": ("full",),
    "vit-large, 32 images": ("full", "lora"),
    "dinov2-giant": ("full",),
    "clip-large, image and text": ("full",),
    "convnext-large, 8 images": ("full",),
    "resnet-50, 32 images": ("full",),
    "segformer-b3, 512": ("full",),
    "whisper-small": ("full", "lora"),
    "wav2vec2-large, 10 s": ("full",),
    "sd 1.5 unet, 512": ("full",),
    "pixart dit, 512": ("full",),
}


class ZooStep(Adapter):
    """An adapter that builds a case and runs its forward pass, which `TrainingAdapter` trains."""

    def __init__(self, case: Case, weights: Weights) -> None:
        super().__init__(Path("/nonexistent"), profile.load("transformers"))
        self.case = case
        self.weights = weights

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        del dtype
        weightless = self.weights is Weights.NONE and self.case.cls.startswith("transformers")
        model: Any = zoo.build(self.case, device, weightless=weightless, attention="eager")
        if hasattr(model, "set_attn_processor"):
            from diffusers.models.attention_processor import AttnProcessor

            model.set_attn_processor(AttnProcessor())
        assert isinstance(model, torch.nn.Module)
        return model

    def sample(self) -> dict[str, Any]:
        return {}

    def prepare(self, sample: dict[str, Any]) -> Batch:
        del sample
        batch = {**zoo.inputs(self.case), **self.case.call}
        if self.case.inputs["kind"] == "mel" or self.case.cls.endswith("T5ForConditionalGeneration"):
            batch["decoder_input_ids"] = torch.arange(2, 34).repeat(self.case.inputs["batch"], 1)
        return batch

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        return {"raw": self.infer(model, batch)}

    def infer(self, model: Any, batch: Batch) -> Any:
        return model(**batch)

    def extract(self, raw: Any) -> Outputs:
        return {"raw": raw}


def cases() -> list[tuple[Case, str]]:
    """Return the trained cases of the zoo, each with the name of its way of training."""
    by_name = {case.name: case for case in zoo.cases()}
    return [
        (
            dataclasses.replace(
                by_name[name], dtype="float32" if way == "full" else "bfloat16", new_tokens=0
            ),
            way,
        )
        for name, ways in _TRAINED.items()
        for way in ways
    ]


def predicted(case: Case, way: str) -> tuple[int, float]:
    """Return the bytes at the peak of a training step on memoryless tensors, and its expected seconds on an H200.

    Raises:
        RuntimeError: The case cannot be trained.
    """
    from mpsprobe.forecast.machine import HostTimes, of_gpu
    from mpsprobe.forecast.timing import Work, timing
    from mpsprobe.forecast.trace import stages
    from mpsprobe.knowledge import speed
    from mpsprobe.prediction.observed import WeightlessTarget, observe
    from mpsprobe.run import Mac

    adapter = TrainingAdapter(ZooStep(case, Weights.NONE), TrainingPlan(way, "adamw"))
    found = observe(WeightlessTarget(case.name, adapter, case.dtype), Mac("2.13", memory_gb=512))
    if found.stopped:
        raise RuntimeError(found.stopped)
    gpu, row = speed.find_gpu("h200"), speed.host_cost("cuda")
    assert gpu is not None
    assert row is not None
    machine = dataclasses.replace(of_gpu(gpu), lists=False, host=HostTimes.of(row, _SLOWER))
    span = timing(Work.of(found.trace, stages(found.trace)), machine).per_sample
    assert span is not None
    assert span.expected is not None
    return int(found.trace.peak), span.expected


def measure(case: Case, way: str) -> dict[str, Any]:
    """Return peak memory and the shortest time of three optimisation steps on the CUDA device, after one warms up.

    Raises:
        RuntimeError: Models that ran before still hold memory of the device.
    """
    device = torch.device("cuda", 0)
    left = torch.cuda.memory_allocated()
    if left > 256 << 20:
        raise RuntimeError(f"{left} bytes of the models before it are still held")
    workspace = _workspace(device)
    adapter = TrainingAdapter(ZooStep(case, Weights.RANDOM), TrainingPlan(way, "adamw"))
    model = adapter.load(device, case.dtype)

    def batch() -> Any:
        made = adapter.prepare({})
        return torch.utils._pytree.tree_map_only(torch.Tensor, lambda one: one.to(device), made)

    for group in adapter.optimizer(model).param_groups:
        group["foreach"] = False  # as on MPS, where torch.optim does not use foreach by default
    with torch.enable_grad():
        adapter.infer(model, batch())
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        seconds = []
        for _ in range(3):
            given = batch()
            begun = time.perf_counter()
            adapter.infer(model, given)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return {
        "name": case.name,
        "way": way,
        "dtype": case.dtype,
        "parameters": sum(one.numel() for one in model.parameters()),
        "peak": torch.cuda.max_memory_allocated() - workspace,
        "held": held - workspace,
        "workspace": workspace,
        "seconds": round(min(seconds), 5),
    }


def _workspace(device: torch.device) -> int:
    """Return the bytes of cuBLAS's workspace, which `max_memory_allocated` counts."""
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(64, 64, device=device, dtype=dtype, requires_grad=True)
        (x @ x).sum().backward()
    del x
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases on this machine, or draw the table of stored measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    chosen = [(case, way) for case, way in cases() if options.only in case.name]
    if options.measure is not None:
        return _measured(chosen, options.measure)
    return _table(chosen)


def _measured(chosen: Sequence[tuple[Case, str]], file: Path) -> int:
    import transformers

    about = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    rows = [about]
    for case, way in chosen:
        gc.collect()  # models are in reference cycles, and an error's traceback keeps its model alive
        torch.cuda.empty_cache()
        try:
            rows.append(measure(case, way))
        except Exception as problem:  # the others are still measured
            rows.append(
                {"name": case.name, "way": way, "failed": f"{type(problem).__name__}: {problem}"[:300]}
            )
        sys.stderr.write(f"{rows[-1]}\n")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return 0


def _table(chosen: Sequence[tuple[Case, str]], say: Callable[[str], Any] = sys.stdout.write) -> int:
    lines = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    measured = {(row["name"], row["way"]): row for row in lines[1:] if "peak" in row and "void" not in row}
    factors, slower = [], []
    say(
        "| model | trained | parameters | predicted GB | measured GB | predicted / measured | predicted ms "
        "| measured ms | measured / predicted |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for case, way in chosen:
        if (row := measured.get((case.name, way))) is None:
            continue
        try:
            here, seconds = predicted(case, way)
        except Exception as problem:
            why = f"{type(problem).__name__}: {str(problem)[:80]}"
            say(f"| {case.name} | {way} | | {why} | | | | | |\n")
            continue
        factors.append(here / row["peak"])
        slower.append(row["seconds"] / seconds)
        say(
            f"| {case.name} | {way} | {row['parameters'] / 1e6:,.0f} M | {here / 1e9:.2f} | {row['peak'] / 1e9:.2f} | "
            f"{factors[-1]:.3f} | {seconds * 1e3:.0f} | {row['seconds'] * 1e3:.0f} | {slower[-1]:.2f} |\n"
        )
    within = sum(0.9 <= one <= 1.1 for one in factors)
    for row in lines[1:]:
        if why := row.get("void", row.get("failed")):
            say(f"\nNot compared: {row['name']}, {row['way']}: {why}.")
    say(f"\n{within} of {len(factors)} within 10 %; median {statistics.median(factors):.3f}.\n")
    for title, half in (("fitted", slower[::2]), ("held out", slower[1::2])):
        off = [max(one, 1 / one) for one in half]
        near = sum(one <= 1.3 for one in off)
        say(f"Time, {title}: {near} of {len(off)} within 1.3; median factor {statistics.median(off):.2f}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
