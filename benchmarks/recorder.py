"""Measure what the recorder adds to a forward pass, compared with PyTorch's own tools in the same run.

    OMP_NUM_THREADS=1 python benchmarks/recorder.py [--repeats 21] [--device cpu] [--json FILE]

A Llama of 22 M parameters, batch 1, 64 tokens, one thread, `no_grad`. Every repetition runs all variants, in an
order that rotates, so that a slow moment of the machine affects all of them equally. Figures are process CPU time.
"first" is a pass with the opening and closing of its context, in which nearly every op is new to the recorder;
"later" is a second pass in the same context. What a variant adds is the median of its differences to the bare pass
of the same repetition.

Two bounds are checked, and a miss ends with status 1: the recorder adds at most half of what FlopCounterMode adds,
in either pass; the flight recorder costs at most 1 us for an op that it knows.
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
from collections.abc import Callable, Iterator
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


class BareMode(TorchDispatchMode):
    """A dispatch mode that only counts, as the lower bound of a recorder's cost."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the call and run it."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def llama(device: str, hidden: int = 384) -> tuple[Callable[[], None], torch.nn.Module]:
    """Return a function that runs one forward pass of the model, and the model."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=20_000,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
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


Context = Callable[[], contextlib.AbstractContextManager[Any]]


def variants(model: torch.nn.Module, folder: Path) -> dict[str, Context]:
    """Return the contexts in which a pass is timed, by their names in the table."""

    @contextlib.contextmanager
    def with_flight() -> Iterator[None]:
        with FlightRecorder(folder / "flight.bin") as flight, record(model, flight=flight):
            yield

    cpu = [ProfilerActivity.CPU]
    return {
        "bare": contextlib.nullcontext,
        "bare dispatch mode": BareMode,
        "torch.profiler": lambda: profile(activities=cpu),
        "torch.profiler, shapes and modules": lambda: profile(
            activities=cpu, record_shapes=True, with_modules=True
        ),
        "FlopCounterMode": lambda: FlopCounterMode(display=False),
        "recorder": lambda: record(model),
        "recorder and flight recorder": with_flight,
    }


Times = dict[str, list[float]]


def measure(contexts: dict[str, Context], forward: Callable[[], None], repeats: int) -> tuple[Times, Times]:
    """Return the CPU milliseconds of the first and of the later pass in each context, one value a repetition."""
    names = list(contexts)
    first: Times = {name: [] for name in names}
    later: Times = {name: [] for name in names}
    for turn in range(-1, repeats):  # the turn before the first warms up
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            with contexts[name]():
                forward()
                halfway = time.process_time()
                forward()
                second = time.process_time() - halfway
            whole = time.process_time() - began
            if turn >= 0:
                first[name].append((whole - second) * 1e3)
                later[name].append(second * 1e3)
    return first, later


def added(times: Times) -> dict[str, float]:
    """Return by variant the median of its differences, in milliseconds, to the bare pass of the same repetition."""
    return {
        name: statistics.median(value - bare for value, bare in zip(values, times["bare"], strict=True))
        for name, values in times.items()
    }


def flight_store_us(folder: Path, count: int = 200_000) -> float:
    """Return the CPU microseconds of recording the begin and end of one op that the flight recorder knows."""
    with FlightRecorder(folder / "store.bin") as flight:
        flight.name(0, "aten::mm", "float32[2, 3] float32[3, 4]", "model", "model.py:1")
        took = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(count):
                flight.end(flight.begin(0), 0)
            took.append((time.process_time() - began) / count * 1e6)
    return statistics.median(took)


def flight_in_run_us(folder: Path, ops: int, repeats: int) -> tuple[float, float]:
    """Return the CPU microseconds for an op that the flight recorder adds to later passes of a narrow model.

    Its layers are 24 wide, so that kernels take almost no time and the difference is visible.

    Returns:
        The median over the repetitions, and half the distance between their quartiles.
    """
    forward, model = llama("cpu", hidden=24)

    def passes(flight: FlightRecorder | None) -> float:
        with record(model, flight=flight):
            forward()
            began = time.process_time()
            for _ in range(5):
                forward()
            return (time.process_time() - began) / 5 / ops * 1e6

    differences = []
    for turn in range(2 * repeats):
        with FlightRecorder(folder / "run.bin") as flight:
            both = [passes(flight), passes(None)] if turn % 2 else [passes(None), passes(flight)][::-1]
        differences.append(both[0] - both[1])
    low, middle, high = statistics.quantiles(differences, n=4)
    return middle, (high - low) / 2


def machine() -> str:
    """Return the processor's name from /proc/cpuinfo, else what `platform` reports."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = {
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        }
        return ", ".join(names)
    return platform.processor() or platform.machine()


def main() -> int:
    """Measure, print the table, and return 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    forward, model = llama(options.device)
    with BareMode() as counter:  # type: ignore[no-untyped-call]
        forward()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, later = measure(variants(model, folder), forward, options.repeats)
        store = flight_store_us(folder)
        in_run, spread = flight_in_run_us(folder, counter.calls, options.repeats)
    with record(model) as recorder:
        forward()
    began = time.process_time()
    distinct = len(recorder.op_uses())
    describing = (time.process_time() - began) * 1e6 / distinct

    ops = counter.calls
    parameters = sum(parameter.numel() for parameter in model.parameters())
    added_first, added_later = added(first), added(later)
    share_first = {name: value / added_first["FlopCounterMode"] for name, value in added_first.items()}
    share_later = {name: value / added_later["FlopCounterMode"] for name, value in added_later.items()}
    out = sys.stdout.write
    out(f"{machine()}, Python {platform.python_version()}, torch {torch.__version__}, {options.device}\n")
    out(f"{parameters / 1e6:.1f} M parameters, {ops} ops, {distinct} distinct op uses, ")
    out(f"{options.repeats} repetitions, CPU ms\n\n")
    out("| variant | first: median | min | adds us an op | of FlopCounterMode ")
    out(
        "| later: median | min | adds us an op | of FlopCounterMode |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for name in first:
        out(f"| {name} ")
        for times, extra, share in ((first, added_first, share_first), (later, added_later, share_later)):
            out(f"| {statistics.median(times[name]):.1f} | {min(times[name]):.1f} ")
            out(f"| {extra[name] * 1e3 / ops:.1f} | {share[name]:.2f} ")
        out("|\n")
    out(f"\nflight recorder: {store:.2f} us an op that it knows, in a loop (bound {FLIGHT_US}); ")
    out(f"{in_run:.2f} +- {spread:.2f} us in later passes of a narrow model, by difference\n")
    out(f"op_uses(): {describing:.0f} us a distinct op use, once\n")
    worst = max(share_first["recorder"], share_later["recorder"])
    out(f"recorder: at most {worst:.2f} of what FlopCounterMode adds (bound {FLOP_SHARE})\n")
    if options.json:
        figures = {"machine": machine(), "ops": ops, "first_ms": first, "later_ms": later, "flight_us": store}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return int(worst > FLOP_SHARE or store > FLIGHT_US)


if __name__ == "__main__":
    sys.exit(main())
