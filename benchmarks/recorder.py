"""What the recorder adds to a forward pass, beside what PyTorch's own tools add, in one run.

    OMP_NUM_THREADS=1 python benchmarks/recorder.py [--repeats 15] [--device cpu] [--json FILE]

A Llama of 22 M parameters, batch 1, 64 tokens, one thread, `no_grad`. Every repetition runs all variants,
in an order that rotates, so that a slow moment of the machine falls on all alike; figures are medians of
process CPU time. Each variant opens its context anew, as its users do. Two bounds are checked, and a miss
ends with status 1: the recorder adds at most half of what FlopCounterMode adds; the flight recorder costs
at most 1 us an op.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as _transformers
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mpsprobe.trace.dispatch import record
from mpsprobe.trace.flight import FlightRecorder

transformers: Any = _transformers  # most of its classes are not typed
FLOP_SHARE = 0.5
FLIGHT_US = 1.0


class BareMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The least a dispatch mode can do."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def llama(device: str) -> tuple[Callable[[], None], torch.nn.Module]:
    """One forward pass of the model, and the model."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20_000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
    )
    model: torch.nn.Module = transformers.LlamaForCausalLM(config).eval().to(device)
    tokens = torch.arange(64, device=device)[None]

    def forward() -> None:
        with torch.no_grad():
            model(tokens, use_cache=False)
        if device != "cpu":
            getattr(torch, device).synchronize()

    return forward, model


def variants(
    forward: Callable[[], None], model: torch.nn.Module, folder: Path
) -> dict[str, Callable[[], None]]:
    """Each way of running the pass, by the name it has in the table."""

    def within(context: Callable[[], contextlib.AbstractContextManager[Any]]) -> Callable[[], None]:
        def run() -> None:
            with context():
                forward()

        return run

    def recorded(flight: bool, described: bool = False) -> Callable[[], None]:
        def run() -> None:
            black_box = FlightRecorder(folder / "flight.bin") if flight else None
            with record(model, flight=black_box) as recorder:
                forward()
            if described:
                recorder.op_uses()
            if black_box is not None:
                black_box.close()

        return run

    return {
        "bare": forward,
        "bare dispatch mode": within(BareMode),
        "torch.profiler": within(lambda: profile(activities=[ProfilerActivity.CPU])),
        "torch.profiler, shapes and modules": within(
            lambda: profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_modules=True)
        ),
        "FlopCounterMode": within(lambda: FlopCounterMode(display=False)),
        "recorder": recorded(flight=False),
        "recorder and flight recorder": recorded(flight=True),
        "recorder and its op_uses()": recorded(flight=False, described=True),
    }


def measure(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of each run, one a repetition."""
    for run in runs.values():
        run()
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            runs[name]()
            taken[name].append((time.process_time() - began) * 1e3)
    return taken


def flight_store_us(folder: Path, count: int = 200_000) -> float:
    """CPU microseconds of noting one op that is known already: begin and end."""
    with FlightRecorder(folder / "store.bin") as flight:
        flight.name(0, "aten::mm", "float32[2, 3] float32[3, 4]", "model", "model.py:1")
        took = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(count):
                flight.end(flight.begin(0), 0)
            took.append((time.process_time() - began) / count * 1e6)
    return statistics.median(took)


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = {
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        }
        return ", ".join(names)
    return platform.processor() or platform.machine()


def main() -> int:
    """Measure, print the table, check the bounds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    forward, model = llama(options.device)
    with BareMode() as counter:  # type: ignore[no-untyped-call]
        forward()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        taken = measure(variants(forward, model, folder), options.repeats)
        store = flight_store_us(folder)
    with record(model) as recorder:
        forward()
    distinct = len(recorder.op_uses())

    median = {name: statistics.median(values) for name, values in taken.items()}
    # Differences within a repetition: what the machine did to both cancels out.
    added = {
        name: statistics.median(value - bare for value, bare in zip(values, taken["bare"], strict=True))
        for name, values in taken.items()
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    out = sys.stdout.write
    out(f"{machine()}, Python {platform.python_version()}, torch {torch.__version__}, {options.device}\n")
    out(f"{parameters / 1e6:.1f} M parameters, {counter.calls} ops, {distinct} distinct op uses, ")
    out(f"{options.repeats} repetitions, CPU ms\n\n")
    out("| variant | median | min | added | us an op | share of FlopCounterMode |\n")
    out("|---|--:|--:|--:|--:|--:|\n")
    for name, value in median.items():
        share = added[name] / added["FlopCounterMode"]
        out(f"| {name} | {value:.1f} | {min(taken[name]):.1f} | {added[name]:.1f} | ")
        out(f"{added[name] * 1e3 / counter.calls:.1f} | {share:.2f} |\n")
    share = added["recorder"] / added["FlopCounterMode"]
    out(f"\nflight recorder, known op use: {store:.2f} us an op (bound {FLIGHT_US})\n")
    out(f"recorder: {share:.2f} of what FlopCounterMode adds (bound {FLOP_SHARE})\n")
    if options.json:
        figures = {
            "machine": machine(),
            "ops": counter.calls,
            "distinct": distinct,
            "cpu_ms": taken,
            "flight_us": store,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(share > FLOP_SHARE or store > FLIGHT_US)


if __name__ == "__main__":
    sys.exit(main())
