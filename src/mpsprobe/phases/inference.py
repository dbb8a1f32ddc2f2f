"""Phase 6: one forward pass, the target's own inference, and whether the results can be trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import MemoryWatch, watch_memory
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.knowledge import advisories
from mpsprobe.models.adapter import Outputs, Weights
from mpsprobe.models.profile import Output, Profile
from mpsprobe.options import split_autocast
from mpsprobe.phases import parity
from mpsprobe.phases.check import Checks, LinkFailed, Result, Stopwatch
from mpsprobe.phases.data import Prepared, move, tensors
from mpsprobe.phases.refusals import collected, unless_refused
from mpsprobe.phases.rounding import relative_difference
from mpsprobe.phases.target_code import target_code
from mpsprobe.phases.transfer import Loaded
from mpsprobe.quantities import decimal_size, enumerate_words
from mpsprobe.run import Evidence, MeasurementKey, Phase, Status, Table
from mpsprobe.trace.dispatch import watched
from mpsprobe.trace.source import short_source

#: Inference is repeated until it was timed this often, or until this many seconds have passed. Emulated, one repeat
#: shows whether the outputs are the same; its time means nothing.
_REPEATS, _BUDGET_S = 3, 20.0
#: The first release whose wheel has torch/_inductor/codegen/mps.py.
_INDUCTOR_SINCE = (2, 7)
#: On a real device the first repeat may take longer: this share of the phase's limit, including the first inference.
#: The flight recorder watches the first inference, so the repeat is the first meaningful timing.
_SHARE_OF_LIMIT = 0.5


@dataclass
class Inferred:
    """The link of phase 6: the outputs of a forward pass and of the target's own inference.

    Attributes:
        prepared: The target and its input.
        forward: The outputs of one forward pass, on the CPU.
        outputs: The extracted outputs of the inference.
        cold_s: The wall time of the first inference in seconds, synchronised.
        memory: The device's memory during the first inference.
        warm_s: The wall times of the repeats in seconds, synchronised; empty when a repeat would have exceeded the
            time budget.
        repeats: The outputs of the last repeat; None without one.
        forward_s: The wall time of a forward pass in seconds, synchronised.
        watched: Whether the flight recorder was active during the first inference, so that `cold_s` includes
            its hook.
        refused: The ops that the device refused in the meantime, if it continues past refusals.
    """

    prepared: Prepared
    forward: Outputs
    outputs: Outputs
    cold_s: float
    warm_s: list[float]
    memory: MemoryWatch
    repeats: Outputs | None = None
    forward_s: float = field(default=0.0)
    watched: bool = False
    refused: list[Finding] = field(default_factory=list)

    @property
    def loaded(self) -> Loaded:
        """Return the link of phase 4: the model on its device."""
        return self.prepared.loaded


def autocast(profile: Profile, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast region that the profile requests around the whole call; else a context that does nothing."""
    kind, dtype = split_autocast(profile.autocast)
    if not dtype or kind == "parts":
        return contextlib.nullcontext()
    return torch.autocast(kind or device.type, dtype=getattr(torch, dtype))


def predict(prepared: Prepared, flight: Path | None = None) -> Inferred:
    """Run a forward pass and the target's own inference, timed; the inference is repeated as the time budget allows.

    The flight recorder watches the first of each, with a hook that costs some 30 µs an op. It does not watch the
    repeats, from which the reported times come.

    Args:
        prepared: The target and its input.
        flight: The file for the op in flight (see `watched`); None to record none.

    Raises:
        LinkFailed: The target raised.
    """
    with collected(prepared.device) as refused:
        try:
            prediction = _predict(prepared, flight)
        except LinkFailed as failure:
            failure.refused = refused
            raise
    return dataclasses.replace(prediction, refused=refused)


def _predict(prepared: Prepared, flight: Path | None) -> Inferred:
    loaded = prepared.loaded
    device, adapter, model = loaded.device, loaded.adapter, loaded.model

    def batch() -> Any:  # inference may consume its input
        return move(adapter.prepare(prepared.sample), device.torch_device)

    guard = target_code(Phase.INFERENCE, "forward pass", device.evidence, device.name)
    with (
        guard,
        adapter.grad_mode,
        autocast(loaded.profile, device.torch_device),
    ):
        with Stopwatch() as forward_watch, watched(flight, model):
            forward = _to_cpu(adapter.forward(model, prepared.device_batch))
            device.synchronize()
        if flight is not None and device.evidence is Evidence.MEASURED:
            again = batch()
            with Stopwatch() as forward_watch:
                adapter.forward(model, again)
                device.synchronize()

    warm: list[float] = []
    repeated: Outputs | None = None
    guard = target_code(Phase.INFERENCE, "inference", device.evidence, device.name)
    with guard, adapter.grad_mode, autocast(loaded.profile, device.torch_device):
        first = batch()
        with watch_memory(device) as memory, Stopwatch() as cold, watched(flight, model):
            outputs = adapter.extract(adapter.infer(model, first))
            device.synchronize()
        emulated = device.evidence is Evidence.EMULATED
        repeats = 1 if emulated else _REPEATS
        longest = (
            _BUDGET_S if emulated else max(_BUDGET_S, _SHARE_OF_LIMIT * loaded.profile.limit(Phase.INFERENCE))
        )
        while len(warm) < repeats and _affordable(cold.seconds, warm, longest if not warm else _BUDGET_S):
            following = batch()
            with Stopwatch() as watch:
                repeated = adapter.extract(adapter.infer(model, following))
                device.synchronize()
            warm.append(watch.seconds)
    return Inferred(
        prepared,
        forward,
        outputs,
        cold.seconds,
        warm,
        memory,
        repeated,
        forward_watch.seconds,
        watched=flight is not None,
    )


def _affordable(cold_s: float, warm: list[float], budget_s: float) -> bool:
    """Return whether one more inference, as long as the last one, would end within the budget."""
    return cold_s + sum(warm) + (warm or [cold_s])[-1] < budget_s


CHECKS: Checks[Inferred] = Checks(Phase.INFERENCE)


@CHECKS.add("runs", "A forward pass and the target's own inference complete", link=True)
def _runs(prediction: Inferred) -> Result:
    result = prediction.loaded.result(Status.PASS)
    result.table = Table(
        columns=["output", "kind", "shape or text"],
        rows=[[name, *_described(value)] for name, value in prediction.outputs.items()],
    )
    return unless_refused(Phase.INFERENCE, result, prediction.loaded.device, prediction.refused)


@CHECKS.add("compiled", "What is given to torch.compile compiles for MPS")
def _compiled(prediction: Inferred) -> Result:
    device = prediction.loaded.device
    if not isinstance(device, Emulated):
        return Result(Status.SKIPPED, "Only an emulated device leaves torch.compile out.")
    found = device.compiled()
    if not found:
        return Result(Status.SKIPPED, "Nothing was given to torch.compile.")
    places = enumerate_words([short_source(one.source) for one in found if one.source])
    return prediction.loaded.result(
        Status.UNKNOWN,
        f"torch.compile{f' at {places}' if places else ''}: the eager code ran instead and is what the other checks "
        f"judge. {_inductor(device.mac.torch or torch.__version__)}",
        "Compile on the Mac and compare with eager, or leave torch.compile out there.",
    )


def _inductor(release: str) -> str:
    """Return a sentence on what is known about torch.compile on MPS in a release."""
    minor = tuple(int(part) for part in release.split(".")[:2])
    if minor < _INDUCTOR_SINCE:
        return f"Inductor of torch {release} has no code generator for Metal, so its default backend raises on MPS."
    faults = [
        one.advisory.id for one in advisories.applicable(release) if one.advisory.id.startswith("compile-")
    ]
    known = f" Known faults that may apply: {', '.join(faults)} (`mpsprobe advisories ID`)." if faults else ""
    return f"Inductor generates Metal code from torch 2.7 on, as a prototype.{known}"


@CHECKS.add("finite", "No output holds NaN or infinity")
def _finite(prediction: Inferred) -> Result:
    bad = [
        f"{where} {name}: {int((~torch.isfinite(tensor)).sum()):,} of {tensor.numel():,} elements"
        for where, outputs in (("forward", prediction.forward), ("inference", prediction.outputs))
        for name, tensor in tensors(outputs)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        return prediction.loaded.result(
            Status.FAIL,
            f"Not finite: {'; '.join(bad)}.",
            "Run in float32 to see whether the range of the dtype is the cause; then layer by layer.",
        )
    return prediction.loaded.result(Status.PASS)


@CHECKS.add("outputs", "Inference yields what the profile says: shapes, bounds, text")
def _outputs(prediction: Inferred) -> Result:
    expected = prediction.loaded.profile.outputs
    if not expected:
        return Result(Status.SKIPPED, "The profile states no outputs.")
    problems = [problem for output in expected for problem in _mismatch(output, prediction.outputs)]
    if problems:
        return prediction.loaded.result(Status.FAIL, f"{'; '.join(problems)}.")
    return prediction.loaded.result(Status.PASS, f"{len(expected)} outputs as stated.")


@CHECKS.add("meaning", "The outputs mean what they should")
def _meaning(prediction: Inferred) -> Result:
    adapter = prediction.loaded.adapter
    problems = adapter.judge(prediction.outputs)
    if problems is None and adapter.weights is Weights.RANDOM:
        return Result(Status.SKIPPED, "Weights are random: what they compute has no meaning.")
    if problems is None:
        return Result(Status.UNKNOWN, "This target's adapter knows no test of meaning.")
    if problems:
        return prediction.loaded.result(Status.FAIL, " ".join(problems))
    return prediction.loaded.result(Status.PASS, adapter.meaning)


@CHECKS.add("repeatable", "The same sample again gives the same outputs")
def _repeatable(prediction: Inferred) -> Result:
    if prediction.repeats is None:
        return Result(
            Status.UNKNOWN,
            f"One inference took {prediction.cold_s:.0f} s, so it was not repeated.",
            "A longer limit in the profile leaves time for it: limits = { inference = SECONDS }.",
        )
    again = prediction.repeats
    expected = prediction.loaded.adapter.judge_repeat(prediction.outputs, again)
    if expected is not None:
        right, summary = expected
        return prediction.loaded.result(Status.PASS if right else Status.FAIL, summary)
    differing = [name for name, value in prediction.outputs.items() if not _same(value, again.get(name))]
    if not differing:
        return prediction.loaded.result(Status.PASS)
    off = {name: _off(prediction.outputs[name], again.get(name)) for name in differing}
    rounded = {
        name: value
        for name, value in off.items()
        if value is not None and value <= parity.limit(prediction.loaded, name)
    }
    if len(rounded) == len(off):
        each = enumerate_words([f"{name} by {value:.2g} of its scale" for name, value in rounded.items()])
        return prediction.loaded.result(
            Status.PASS, f"The same within rounding: {each}. Kernels that add in varying order do that."
        )
    others = enumerate_words([name for name in off if name not in rounded])
    if prediction.loaded.adapter.weights is Weights.RANDOM and not any(
        off[name] is not None and name not in rounded for name in off
    ):
        return prediction.loaded.result(
            Status.UNKNOWN,
            f"{others}: other tokens in the second run with the same seed. With random weights the scores of tokens "
            "nearly tie, so rounding decides; it says nothing of trained weights.",
        )
    return prediction.loaded.result(
        Status.WARN,
        f"{others} differ between two runs with the same seed by more than rounding.",
        "Tokens that nearly tie turn on rounding; else draw noise from a seeded CPU generator and move it.",
    )


def _off(one: Any, other: Any) -> float | None:
    """Return max |difference| / max |one| of two floating tensors of one shape; None for any other values."""
    tensors_ = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    if not tensors_ or not one.is_floating_point() or one.shape != other.shape:
        return None
    return relative_difference(other, one)


@CHECKS.add("time", "Time per sample is known")
def _time(prediction: Inferred) -> Result:
    loaded = prediction.loaded
    device = loaded.device
    per_sample = statistics.median(prediction.warm_s) if prediction.warm_s else prediction.cold_s
    count = len(prediction.warm_s)
    how = f"{f'median of {count} after a first' if count else 'the first'} of {prediction.cold_s:.3g} s"
    how += " with the flight recorder on" if prediction.watched else ""
    if device.evidence is Evidence.EMULATED:
        return Result(
            Status.UNKNOWN,
            f"Emulation took {per_sample:.3g} s a sample here ({how}), which says nothing of a Mac's speed.",
            "Measure on the Mac.",
        )
    result = loaded.result(Status.PASS, f"{per_sample:.3g} s a sample on {device.name} ({how}).")
    result.measurements = [
        loaded.measured(MeasurementKey.TIME_PER_SAMPLE, round(per_sample, 4), "s"),
        loaded.measured(MeasurementKey.FIRST_INFERENCE, round(prediction.cold_s, 4), "s"),
        loaded.measured(MeasurementKey.FORWARD_PASS, round(prediction.forward_s, 4), "s"),
    ]
    return result


@CHECKS.add("memory", "Inference fits in the device's memory")
def _memory(prediction: Inferred) -> Result:
    loaded, memory = prediction.loaded, prediction.memory
    peak, limit = memory.peak.allocated, memory.peak.limit
    if peak is None:
        result = Result(Status.UNKNOWN, "This device does not tell its memory.")
    elif limit is not None and peak > limit:
        result = loaded.result(
            Status.WARN,
            f"{decimal_size(peak)} at the peak, {decimal_size(limit)} are available.",
            "Expect swapping: a shorter context, a smaller dtype or fewer samples at once.",
        )
    else:
        result = loaded.result(Status.PASS, f"{decimal_size(peak)} at the peak; {memory.method}.")
    result.measurements = [
        loaded.measured(MeasurementKey.PEAK_MEMORY, peak, "bytes"),
        loaded.measured(MeasurementKey.MEMORY_BEFORE_INFERENCE, memory.before.allocated, "bytes"),
        loaded.measured(MeasurementKey.MEMORY_LIMIT, limit, "bytes"),
    ]
    return result


@CHECKS.add("parity", "The forward pass agrees with a float32 reference on the CPU")
def _parity(prediction: Inferred) -> Result:
    return parity.judged(prediction.prepared, prediction.forward)


def _mismatch(output: Output, outputs: Outputs) -> list[str]:
    """Return sentences about how an output differs from the kind, shape and bounds that the profile states."""
    if output.name not in outputs:
        return [f"{output.name} is not there"]
    value = outputs[output.name]
    if output.kind == "text":
        texts = [value] if isinstance(value, str) else list(value)
        if not all(isinstance(text, str) for text in texts):
            return [f"{output.name} is not text"]
        return [f"{output.name} is empty"] if output.nonempty and not all(texts) else []
    if not isinstance(value, torch.Tensor):
        return [f"{output.name} is a {type(value).__name__}, not a tensor"]
    problems = []
    if output.shape is not None and not _fits(list(value.shape), output.shape):
        problems.append(f"{output.name} has shape {tuple(value.shape)}, stated is {tuple(output.shape)}")
    for bound, beyond, extreme in (
        (output.min, "below", value.min() if value.numel() else None),
        (output.max, "above", value.max() if value.numel() else None),
    ):
        if bound is None or extreme is None:
            continue
        reached = float(extreme)
        if (beyond == "below" and reached < bound) or (beyond == "above" and reached > bound):
            problems.append(f"{output.name} reaches {reached:.4g} {output.unit}, {beyond} {bound:g}")
    return problems


def _fits(shape: list[int], stated: list[int | str]) -> bool:
    return len(shape) == len(stated) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, stated, strict=True)
    )


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; tensors must agree in shape and in every element, so NaN never does."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _described(value: Any) -> list[str]:
    if isinstance(value, torch.Tensor):
        return [str(value.dtype).removeprefix("torch."), "x".join(map(str, value.shape))]
    text = str(value)
    return [type(value).__name__, text if len(text) <= 200 else f"{text[:200]}..."]


def _to_cpu(outputs: Outputs) -> Outputs:
    moved: Outputs = move(outputs, torch.device("cpu"))
    return moved
