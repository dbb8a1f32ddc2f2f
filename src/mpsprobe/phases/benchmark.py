"""Benchmarks of the target: time its inference and the outermost module calls, and judge the timings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

from torch import nn

from mpsprobe.device.real import Device
from mpsprobe.phases.check import Checks, Result
from mpsprobe.phases.data import move
from mpsprobe.phases.inference import Inferred, autocast
from mpsprobe.run import Evidence, MeasurementKey, Phase, Rounds, Status, Table


@dataclass
class Steps:
    """Wall times in seconds of outermost calls by the path of the module, in order of appearance.

    A call is outermost when no other module makes it: the language model in each step of `generate`, or the network
    of a flow in each of its steps. The device is synchronised before and after each call.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)


@contextmanager
def outermost_calls(model: nn.Module, synchronize: Callable[[], None]) -> Iterator[Steps]:
    """Time the outermost module calls while the context lasts.

    Args:
        model: The model whose modules are timed.
        synchronize: A function that waits for the device.

    Yields:
        The timings, which grow with each call.
    """
    steps = Steps()
    depth = 0
    begun = 0.0

    def enter(_module: nn.Module, _args: Any) -> None:
        nonlocal depth, begun
        if depth == 0:
            synchronize()
            begun = time.perf_counter()
        depth += 1

    def leaver(path: str) -> Callable[..., None]:
        def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                synchronize()
                steps.seconds.setdefault(path, []).append(time.perf_counter() - begun)

        return leave

    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leaver(path), always_call=True))
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()


#: The time budget in seconds for all rounds of one benchmark, and the smallest and largest number of rounds.
_BUDGET_S, _FEWEST, _MOST = 2.0, 3, 20


@dataclass(frozen=True)
class Timed:
    """The timings of one benchmark on the device of the run.

    Attributes:
        prediction: The inference that was timed.
        seconds: The wall time of each round in seconds, synchronised; empty when it takes too long to repeat.
        steps: The steps of one inference; None where they were not requested.
    """

    prediction: Inferred
    seconds: Sequence[float]
    steps: Steps | None = None


def rounds(device: Device, one_s: float) -> int:
    """Return the number of rounds that fit the time budget for something that takes `one_s` seconds, at most 20.

    It is 0 when fewer than 3 fit, and on the virtual device, because the speed of an emulation means nothing.
    """
    if device.evidence is Evidence.EMULATED:
        return 0
    fitting = int(_BUDGET_S / max(one_s, 1e-6))
    return 0 if fitting < _FEWEST else min(fitting, _MOST)


def forward(prediction: Inferred) -> tuple[Callable[[], Any], float]:
    """Return a function that runs a synchronised forward pass on the device, and its approximate time in seconds."""
    loaded, batch = prediction.loaded, prediction.prepared.device_batch

    def call() -> None:
        with loaded.adapter.grad_mode, autocast(loaded.profile, loaded.device.torch_device):
            loaded.adapter.forward(loaded.model, batch)
            loaded.device.synchronize()

    return call, prediction.forward_s


def inference(prediction: Inferred) -> tuple[Callable[[], Any], float]:
    """Return a function that runs a synchronised inference on a new input, and its approximate time in seconds."""
    loaded = prediction.loaded

    def call() -> None:
        with loaded.adapter.grad_mode, autocast(loaded.profile, loaded.device.torch_device):
            batch = move(loaded.adapter.prepare(prediction.prepared.sample), loaded.device.torch_device)
            loaded.adapter.extract(loaded.adapter.infer(loaded.model, batch))
            loaded.device.synchronize()

    return call, min(prediction.warm_s, default=prediction.cold_s)


def steps(prediction: Inferred) -> tuple[Callable[[], Any], float]:
    """Return a function that runs an inference with each outermost call timed, and its approximate time in seconds."""
    loaded = prediction.loaded

    def call() -> Steps:
        with loaded.adapter.grad_mode, autocast(loaded.profile, loaded.device.torch_device):
            batch = move(loaded.adapter.prepare(prediction.prepared.sample), loaded.device.torch_device)
            with outermost_calls(loaded.model, loaded.device.synchronize) as found:
                loaded.adapter.infer(loaded.model, batch)
            return found

    return call, min(prediction.warm_s, default=prediction.cold_s)


#: The functions that prepare a benchmark, by the name of its check.
SUBJECTS: dict[str, Callable[[Inferred], tuple[Callable[[], Any], float]]] = {
    "forward": forward,
    "inference": inference,
    "steps": steps,
}

CHECKS: Checks[Timed] = Checks(Phase.BENCHMARK)


def _timings(timed: Timed) -> Result:
    loaded = timed.prediction.loaded
    if loaded.device.evidence is Evidence.EMULATED:
        return Result(Status.SKIPPED, "The speed of an emulation says nothing of a Mac's.")
    if not timed.seconds:
        return Result(
            Status.UNKNOWN,
            f"One round takes too long for {_FEWEST} in {_BUDGET_S:g} s: phase 6 timed it once.",
        )
    middle = median(timed.seconds)
    low, _, high = quantiles(timed.seconds, n=4)
    result = loaded.result(
        Status.PASS,
        f"median {middle:.4g} s, middle half {low:.4g} to {high:.4g} s, {len(timed.seconds)} rounds.",
    )
    result.measurements = [
        loaded.measured(MeasurementKey.MEDIAN, round(middle, 6), "s"),
        loaded.measured(MeasurementKey.LOWER_QUARTILE, round(low, 6), "s"),
        loaded.measured(MeasurementKey.UPPER_QUARTILE, round(high, 6), "s"),
        loaded.measured(MeasurementKey.ROUNDS, len(timed.seconds)),
    ]
    result.data = Rounds([round(seconds, 6) for seconds in timed.seconds])
    return result


def _steps(timed: Timed) -> Result:
    loaded = timed.prediction.loaded
    if loaded.device.evidence is Evidence.EMULATED:
        return Result(Status.SKIPPED, "The speed of an emulation says nothing of a Mac's.")
    if timed.steps is None or not timed.steps.seconds:
        return Result(
            Status.UNKNOWN, "No module was called by itself, or a round takes too long to be repeated."
        )
    rows: list[list[str | int | float | bool | None]] = []
    for path, seconds in timed.steps.seconds.items():
        later = round(median(seconds[1:]), 6) if len(seconds) > 1 else None
        rows.append(
            [path or "(the model)", len(seconds), round(seconds[0], 6), later, round(sum(seconds), 6)]
        )
    longest = max(rows, key=lambda row: float(row[4] or 0))
    each = f", later ones {longest[3]:.4g} s each" if longest[3] is not None else ""
    result = loaded.result(
        Status.PASS,
        f"{longest[0]}: {longest[1]} calls, the first {longest[2]:.4g} s (of a generating model its prefill){each}.",
    )
    result.table = Table(["module", "calls", "first, s", "median of later, s", "all, s"], rows)
    return result


CHECKS.add("forward", "Speed of a forward pass")(_timings)
CHECKS.add("inference", "Speed of the target's own inference")(_timings)
CHECKS.add("steps", "Speed of each step of inference: prefill, decode, flow")(_steps)
