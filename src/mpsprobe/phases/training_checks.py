"""Check optimisation steps: loss, gradients, update, memory, resuming, GradScaler and worker processes."""

from __future__ import annotations

import io
import itertools
import math
import multiprocessing
import pickle
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mpsprobe.errors import text_of
from mpsprobe.models.training import trained_parameters
from mpsprobe.phases import rounding, site
from mpsprobe.phases.check import Checks, Result
from mpsprobe.phases.data import move, tensors
from mpsprobe.phases.inference import autocast
from mpsprobe.phases.refusals import collected, keeps_going, unless_refused
from mpsprobe.phases.target_code import target_code
from mpsprobe.phases.training_steps import BUDGET_S, FollowedStep, Training, gradients_of, load_weights
from mpsprobe.quantities import decimal_size, enumerate_words, plural
from mpsprobe.run import Evidence, MeasurementKey, Phase, Status, Table

#: The number of steps after which lasting allocations are made: caches, and states that an optimiser creates late.
_SETTLED = 3
#: The accepted growth of memory in bytes from step `_SETTLED` on: scalars that a loop collects are no leak.
_GROWTH = 1 << 20
#: The relative difference of a gradient from the CPU's in float32 that is accepted without the noise floor: some
#: times machine epsilon, because a backward rounds on every layer.
_GRADIENT_LIMITS = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1}
#: A gradient smaller than this share of the model's whole gradient is compared relative to that share: that of a key
#: projection's bias, say, is zero in exact arithmetic, so all of it is rounding.
_SMALL = 1e-4
#: With a noise floor above this, the factor would let any gradient pass.
_TELLS_LITTLE = 0.5
#: The accepted relative difference of the loss between two steps from one saved state, because kernels may add in
# varying order.
_RESUMED = 1e-3
#: The time in seconds that worker processes have to start and to return their first batch.
_WORKER_S = 120


@dataclass
class GradientDifference:
    """How far a parameter's gradient is from that of a float32 model on the CPU.

    Attributes:
        name: The name of the parameter.
        relative: The norm of the difference over the norm of the CPU's gradient, or over a share of the whole
            gradient's norm if that is larger; NaN where one of the two is missing or has another shape.
        limit: The largest accepted value.
    """

    name: str
    relative: float
    limit: float

    @property
    def within(self) -> bool:
        """Return whether the difference is accepted; NaN is not."""
        return self.relative <= self.limit

    @property
    def excess(self) -> float:
        """Return the difference divided by the limit; infinity for NaN."""
        return math.inf if math.isnan(self.relative) else self.relative / self.limit

    @property
    def shown(self) -> float | None:
        """Return the difference as a table shows it: rounded to three digits; None for NaN."""
        return None if math.isnan(self.relative) else float(f"{self.relative:.3g}")


CHECKS: Checks[Training] = Checks(Phase.TRAINING)


@CHECKS.add("steps", "Optimisation steps complete on the device", link=True)
def _steps(training: Training) -> Result:
    loaded = training.prepared.loaded
    summary = f"{plural(len(training.losses), 'step')} of {training.adapter.plan.words}."
    result = loaded.result(Status.PASS, summary)
    if loaded.device.evidence is Evidence.MEASURED:
        median = statistics.median(training.seconds[1:])
        result.message = f"{summary} {median:.3g} s a step on {loaded.device.name}."
        result.measurements = [loaded.measured(MeasurementKey.TIME_PER_STEP, round(median, 4), "s")]
    return unless_refused(Phase.TRAINING, result, loaded.device, training.refused)


@CHECKS.add("loss", "The loss is finite, and falls on a repeated batch")
def _loss(training: Training) -> Result:
    loaded, losses = training.prepared.loaded, training.losses
    bad = next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is not None:
        return loaded.result(
            Status.FAIL,
            f"The loss of step {bad + 1} is {losses[bad]}.",
            "Train in float32 to see whether the range of the dtype is the cause, then compare layer by layer.",
        )
    summary = f"from {losses[0]:.6g} to {losses[-1]:.6g} in {plural(len(losses), 'step')}"
    if losses[-1] < losses[0]:
        return loaded.result(Status.PASS, f"It falls {summary}.")
    if training.first.own_optimizers:
        return loaded.result(
            Status.WARN, f"It goes {summary}: losses of optimisers of its own may oppose each other."
        )
    still = _rounded_away(training)
    return loaded.result(
        Status.WARN if still else Status.FAIL,
        f"It does not fall: it goes {summary}.{f' {still}' if still else ''}",
        "Keep the weights in float32 and use autocast." if still else "See train.gradients and train.update.",
    )


@CHECKS.add("gradients", "Every gradient is finite, and agrees with the CPU's in float32")
def _gradients_agree(training: Training) -> Result:
    loaded, found = training.prepared.loaded, training.first.gradients
    bad = [name for name, one in found.items() if one is not None and not bool(one.isfinite().all())]
    if bad:
        first = _nearest_to_loss(training, bad)
        return loaded.result(
            Status.FAIL,
            f"Not finite: the gradient of {first}{_and_more(len(bad) - 1)}. It is the first of them on the way back "
            "from the loss.",
            "Train in float32 to see whether the range of the dtype is the cause; then run the op "
            "checks: mpsprobe run --phase ops.",
        )
    if training.reference is None:
        return Result(
            Status.UNKNOWN,
            site.no_room_for_reference(loaded.model),
            "Compare on a machine with more memory, or with --random-init --shrink.",
        )
    floors: dict[str, float] = {}
    differences = _differences(training, floors)
    if not differences:
        return Result(Status.UNKNOWN, "No followed parameter has a gradient.")
    if not all(one.within for one in differences):
        floors = _noise(training)
        differences = _differences(training, floors)
    wrong = [one for one in differences if not one.within]
    worst = max(differences, key=lambda one: one.excess)
    if wrong:
        name = _nearest_to_loss(training, [one.name for one in wrong])
        begins = next(one for one in wrong if one.name == name)
        if begins.shown is None:
            summary = f"The gradient of {name} is missing on one of device and CPU"
        else:
            summary = (
                f"The gradient of {name} is off by {begins.relative:.2g} of its norm, "
                f"accepted is {begins.limit:.2g}"
            )
        result = loaded.result(
            Status.FAIL,
            f"{summary}{_and_more(len(wrong) - 1)}. It is the first of them on the way back from the loss: look at the "
            "backward of what its module, and the code after it, calls.",
            "Run the op checks, which replay each backward op beside the CPU's: mpsprobe run --phase ops.",
        )
    elif floors and min(one.limit for one in differences) > _TELLS_LITTLE:
        result = Result(
            Status.UNKNOWN,
            f"Rounding alone changes this model's gradients by {max(floors.values()):.2g} of their norm: so large a "
            "floor hides an error.",
            "Compare in float32, or with trained weights.",
        )
    else:
        floor = f"; rounding alone changes it by {floors[worst.name]:.2g}" if worst.name in floors else ""
        result = loaded.result(
            Status.PASS,
            f"{len(differences)} gradients; the largest difference is {worst.relative:.2g} of its norm ({worst.name})"
            f"{floor}.{' Only a part of a large model was followed.' if training.first.partial else ''}",
        )
    shown = sorted(differences, key=lambda one: one.excess, reverse=True)
    result.table = Table(
        columns=["parameter", "difference / norm", "accepted", "within"],
        rows=[[one.name, one.shown, float(f"{one.limit:.3g}"), one.within] for one in shown[:20]],
    )
    return result


def _differences(training: Training, floors: dict[str, float]) -> list[GradientDifference]:
    """Return how far each followed gradient is from the reference's; pairs of missing or zero gradients are left out.

    Args:
        training: The steps, with a reference.
        floors: The noise floors by parameter, which raise the limits; empty where they were not measured.
    """
    assert training.reference is not None
    found, reference = training.first.gradients, training.reference
    limit = max(
        (_GRADIENT_LIMITS.get(one.dtype, 1e-3) for one in found.values() if one is not None), default=1e-3
    )
    whole = math.sqrt(
        sum(float(one.double().square().sum()) for one in reference.values() if one is not None)
    )
    usual = statistics.median(floors.values()) if floors else 0.0
    differences = []
    for name in found.keys() & reference.keys():
        ours, theirs = found[name], reference[name]
        if ours is None and theirs is None:
            continue
        relative = math.nan
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            scale = max(float(theirs.double().norm()), _SMALL * whole)
            difference = float((ours.double() - theirs.double()).norm())
            relative = difference / scale if scale else difference
        elif theirs is not None and not bool(theirs.any()):
            continue  # a gradient of zeros counts as none
        floor = max(floors.get(name, 0.0), usual)
        differences.append(GradientDifference(name, relative, max(limit, rounding.FACTOR * floor)))
    return differences


def _noise(training: Training) -> dict[str, float]:
    """Return how much rounding changes each gradient on the CPU, relative to its norm.

    The gradients are those of a model in the device's dtype, or of a float32 model with perturbed weights.

    Raises:
        LinkFailed: The target raised.
    """
    loaded, adapter = training.prepared.loaded, training.adapter
    guard = target_code(Phase.TRAINING, "the run in the device's dtype", loaded.device.evidence, "cpu")
    cpu = torch.device("cpu")
    with guard, adapter.grad_mode, torch.random.fork_rng(devices=[]), autocast(loaded.profile, cpu):
        model = adapter.load(cpu, loaded.profile.dtype)
        load_weights(model, training.weights or {})
        if {one.dtype for one in model.parameters() if one.is_floating_point()} == {torch.float32}:
            rounding.perturbed(model)
        found, _ = gradients_of(training, model)
    assert training.reference is not None
    whole = math.sqrt(
        sum(float(one.double().square().sum()) for one in training.reference.values() if one is not None)
    )
    floors = {}
    for name, one in found.items():
        theirs = training.reference.get(name)
        if one is not None and theirs is not None:
            scale = max(float(theirs.double().norm()), _SMALL * whole)
            floors[name] = float((one.double() - theirs.double()).norm()) / scale if scale else 0.0
    return floors


def _nearest_to_loss(training: Training, names: list[str]) -> str:
    """Return the parameter whose module the forward pass reaches last, and so the backward pass first."""
    place = {name: index for index, name in enumerate(training.order or training.first.gradients)}
    return max(names, key=lambda name: place.get(name, -1))


def _and_more(count: int) -> str:
    return f", and {count} more" if count else ""


@CHECKS.add("update", "The optimiser moves what is trained as on the CPU, and nothing else")
def _update(training: Training) -> Result:
    loaded, first = training.prepared.loaded, training.first
    frozen = [name for name in first.before if name not in first.gradients]
    moved = [name for name in frozen if not torch.equal(first.before[name], first.after[name])]
    if moved:
        return loaded.result(
            Status.FAIL, f"Frozen, but changed by a step: {moved[0]}{_and_more(len(moved) - 1)}."
        )
    still = [
        name
        for name, expected in first.expected.items()
        if torch.equal(first.before[name], first.after[name])
        and not torch.equal(first.before[name], expected)
    ]
    if still:
        return loaded.result(
            Status.FAIL,
            f"Trained, but left as it was by a step that moves it on the CPU: {still[0]}{_and_more(len(still) - 1)}.",
            "Parameters that are not contiguous are a known cause: call .contiguous() on them when the model is made.",
        )
    wrong = [name for name, expected in first.expected.items() if not _as_expected(first, name, expected)]
    if wrong:
        return loaded.result(
            Status.FAIL,
            f"{wrong[0]}{_and_more(len(wrong) - 1)}: the CPU's {training.adapter.plan.optimizer} takes another "
            "step with the same gradients and states.",
            "Run the op checks: mpsprobe run --phase ops.",
        )
    idle = [name for name, one in first.gradients.items() if one is None]
    summary = f"{len(first.expected)} parameters move as on the CPU; {len(frozen)} frozen ones stay."
    if idle:
        summary += f" {plural(len(idle), 'parameter')} got no gradient ({idle[0]}{_and_more(len(idle) - 1)})."
    if away := _rounded_away(training):
        return loaded.result(
            Status.WARN, f"{summary} {away}", "Keep the weights in float32 and use autocast."
        )
    return loaded.result(Status.PASS, summary)


def _as_expected(first: FollowedStep, name: str, expected: Tensor) -> bool:
    """Return whether a parameter after a step equals the CPU's within the rounding of its dtype and the step."""
    before, after = first.before[name].double(), first.after[name].double()
    expected = expected.double()
    epsilon = torch.finfo(first.before[name].dtype).eps
    allowed = 2 * epsilon * before.abs().max() + 1e-2 * (expected - before).abs().nan_to_num(0.0).max()
    # a value that is not finite on the CPU either is no fault of the device
    same = (after - expected).abs() <= allowed
    return bool((same | (after == expected) | (after.isnan() & expected.isnan())).all())


def _rounded_away(training: Training) -> str:
    """Return a warning if rounding leaves half or more of the 16-bit weights unchanged on the CPU; else `""`."""
    first = training.first
    moving = [name for name in first.expected if bool((first.gradients[name] != 0).any())]  # type: ignore[union-attr]
    kept = [
        float((first.expected[name] == first.before[name]).double().mean())
        for name in moving
        if first.before[name].dtype is not torch.float32
    ]
    if not kept or statistics.mean(kept) < _TELLS_LITTLE:
        return ""
    dtype = str(next(iter(first.before.values())).dtype).removeprefix("torch.")
    share = f"{statistics.mean(kept):.0%}"
    return f"{share} of the weights stay as they are: the updates are below the rounding of {dtype}."


@CHECKS.add("memory", "Memory stays flat from step to step")
def _memory(training: Training) -> Result:
    loaded, allocated = training.prepared.loaded, training.allocated
    if loaded.device.name == "cpu" or not allocated:
        return Result(Status.UNKNOWN, "This device does not tell what its tensors hold.")
    settled = allocated[_SETTLED:]
    if len(settled) < 2:
        return Result(
            Status.UNKNOWN,
            f"Only {plural(len(allocated), 'step')} fit into the budget of {BUDGET_S:.0f} s.",
            "A smaller batch, or --random-init --shrink, leaves time for more.",
        )
    growth = settled[-1] - settled[0]
    each = growth / (len(settled) - 1)
    rises = all(later >= earlier for earlier, later in itertools.pairwise(settled))
    if growth > _GROWTH and rises:
        return loaded.result(
            Status.FAIL,
            f"Each step keeps {decimal_size(each)} more on the device: {decimal_size(settled[0])} after step "
            f"{_SETTLED + 1}, {decimal_size(settled[-1])} after step {len(allocated)}.",
            "Keep losses as numbers (loss.item()) or detached; a graph that is kept holds its activations.",
        )
    return loaded.result(Status.PASS, f"{decimal_size(settled[-1])} after step {len(allocated)}.")


@CHECKS.add("resume", "A saved and loaded state goes on with the same loss")
def _resume(training: Training) -> Result:
    loaded, adapter = training.prepared.loaded, training.adapter
    if training.first.own_optimizers:
        return Result(
            Status.UNKNOWN,
            "The target steps an optimiser of its own, whose state is not known here.",
            "Step the optimizer that train_step is given.",
        )
    model, device = loaded.model, loaded.device
    held = sum(one.numel() * one.element_size() for one in trained_parameters(model)) * 4
    if not site.fits(held):
        return Result(
            Status.UNKNOWN, f"A saved state of {decimal_size(held)} does not fit in the host's memory."
        )
    names = {id(one): name for name, one in model.named_parameters()}
    trained = {names[id(one)]: one for one in trained_parameters(model)}
    guard = target_code(Phase.TRAINING, "saving and loading the state", device.evidence, device.name)
    with (
        guard,
        collected(device) as refused,
        adapter.grad_mode,
        autocast(loaded.profile, device.torch_device),
    ):
        saved = io.BytesIO()
        values = {name: one.detach() for name, one in trained.items()}
        torch.save({"model": values, "optimizer": adapter.optimizer(model).state_dict()}, saved)
        before = [training.step(), training.step()]
        saved.seek(0)
        read = torch.load(saved, map_location=device.torch_device, weights_only=True)
        with torch.no_grad():
            for name, one in read["model"].items():
                trained[name].copy_(one)
        adapter.new_optimizer(model).load_state_dict(read["optimizer"])
        after = [training.step(), training.step()]
    summary = (
        f"{before[0]:.6g}, {before[1]:.6g} without, {after[0]:.6g}, {after[1]:.6g} with saving and loading"
    )
    close = all(math.isclose(one, other, rel_tol=_RESUMED) for one, other in zip(before, after, strict=True))
    if not close:
        return loaded.result(Status.FAIL, f"The losses of two steps: {summary}.")
    return unless_refused(
        Phase.TRAINING, loaded.result(Status.PASS, f"The losses of two steps: {summary}."), device, refused
    )


@CHECKS.add("scaler", "A step under float16 autocast with GradScaler gives a finite loss that falls")
def _scaler(training: Training) -> Result:
    loaded, adapter = training.prepared.loaded, training.adapter
    model, device = loaded.model, loaded.device
    if getattr(adapter.inner, "train_step", None) is not None:
        return Result(Status.SKIPPED, "The target takes its own steps.")
    if device.torch_device.type == "cpu":
        return Result(Status.SKIPPED, "float16 autocast is for GPUs.")
    dtypes = {one.dtype for one in trained_parameters(model)}
    if dtypes != {torch.float32}:
        return Result(Status.SKIPPED, "GradScaler is for float32 weights.")
    if keeps_going(device):
        return Result(Status.SKIPPED, "Not tried in a run that continues past refusals.")
    kind = device.torch_device.type
    try:
        with adapter.grad_mode:
            scaler = torch.amp.GradScaler(kind)
            losses = [_scaled_step(training, scaler) for _ in range(3)]
    except Exception as problem:  # a release may raise anything about an optional way of training
        first = text_of(problem).strip().splitlines() or [type(problem).__name__]
        return loaded.result(
            Status.WARN,
            f"Not possible on this release: {type(problem).__name__}: {first[0]}",
            "Train in float32, or with bfloat16 autocast, which needs no scaler.",
        )
    summary = f"Losses {', '.join(f'{loss:.6g}' for loss in losses)}; scale {float(scaler.get_scale()):.4g}."
    if not all(map(math.isfinite, losses)):
        return loaded.result(Status.FAIL, summary, "Train in float32, or with bfloat16 autocast.")
    if losses[-1] >= losses[0] and float(scaler.get_scale()) >= 2.0**16:
        return loaded.result(Status.FAIL, f"The loss does not fall. {summary}")
    return loaded.result(Status.PASS, summary)


def _scaled_step(training: Training, scaler: torch.amp.GradScaler) -> float:
    """Take one step under float16 autocast, as in the AMP recipe of PyTorch's documentation, and return the loss."""
    adapter, model = training.adapter, training.prepared.loaded.model
    device = training.prepared.device
    optimizer = adapter.optimizer(model)
    with torch.autocast(device.torch_device.type, dtype=torch.float16):
        loss = adapter.backward(model, training.batch(), scaler.scale)
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(trained_parameters(model), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    device.synchronize()
    return float(loss)


class _Batches(Dataset[Any]):
    """A data set of two items, each the target's input, that can be sent to a worker process."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self._batch


def _unchanged(batches: list[Any]) -> Any:
    return batches[0]


@CHECKS.add("workers", "A DataLoader's worker process feeds a step")
def _workers(training: Training) -> Result:
    loaded, device = training.prepared.loaded, training.prepared.device
    batch = training.adapter.prepare(training.prepared.sample)
    try:
        pickle.dumps(batch)
    except Exception as problem:
        return loaded.result(
            Status.WARN,
            f"The input cannot be sent to a worker process: {type(problem).__name__}: {text_of(problem)}",
            "Return plain tensors, numbers and texts from the dataset.",
        )
    # macOS starts worker processes with spawn.
    loader = DataLoader(
        _Batches(batch),
        batch_size=1,
        num_workers=1,
        collate_fn=_unchanged,
        timeout=_WORKER_S,
        multiprocessing_context=multiprocessing.get_context("spawn"),
    )
    guard = target_code(Phase.TRAINING, "feeding from a worker process", device.evidence, device.name)
    with guard, training.adapter.grad_mode, autocast(loaded.profile, device.torch_device):
        got = next(iter(loader))
        sent = dict(tensors(batch))
        different = [name for name, one in tensors(got) if not torch.equal(one, sent[name])]
        if different:
            return loaded.result(
                Status.FAIL, f"{enumerate_words(different)} changed on the way from a worker."
            )
        training.adapter.infer(loaded.model, move(got, device.torch_device))
        device.synchronize()
    return loaded.result(Status.PASS, "One worker, started by spawn.")
