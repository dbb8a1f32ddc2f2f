"""The training stage: optimisation steps on the device, compared with the CPU's.

It runs with `--train` after phase 6, whose inference is already such a step. It continues with the model of phase 4
as phase 6 left it, so that the device holds no second copy; the CPU's copy for comparison is made from there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from mpsprobe.device.virtual.observer import Finding
from mpsprobe.models.training import TrainingAdapter
from mpsprobe.phases import site
from mpsprobe.phases.check import Stopwatch
from mpsprobe.phases.data import Prepared, move
from mpsprobe.phases.inference import autocast
from mpsprobe.phases.refusals import collected
from mpsprobe.phases.target_code import target_code
from mpsprobe.run import Phase
from mpsprobe.trace.dispatch import watched

#: The number of steps over which memory is observed, and the seconds after which no further step begins; two are always
# taken.
STEPS, BUDGET_S = 10, 180.0
#: The greatest number of elements of parameters that are copied and followed, spread evenly over the model.
_FOLLOWED = 1 << 28


@dataclass
class FollowedStep:
    """Parameters and gradients around one optimisation step, as copies on the CPU.

    Attributes:
        before: The parameters by name before the step, in their own dtype.
        after: The parameters by name after the step.
        gradients: The gradients that the optimiser received; None where a trained parameter has no gradient.
        expected: The parameters that the CPU's optimiser makes of `before` with the same gradients and states.
        partial: Whether only a part of the parameters is followed, because the model is large.
        own_optimizers: Whether the target stepped an optimiser that it made itself.
    """

    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    expected: dict[str, Tensor] = field(default_factory=dict)
    partial: bool = False
    own_optimizers: bool = False


@dataclass
class Training:
    """The link of the training checks: the steps that were taken on the device.

    Attributes:
        prepared: The target and its input.
        losses: The loss before each step.
        seconds: The wall time of each step in seconds, synchronised.
        allocated: The bytes that tensors occupy on the device after each step; empty where the device cannot
            report them.
        first: The first step, followed.
        reference: The gradients of the CPU's float32 model at the same weights; None where it does not fit in
            memory.
        weights: All parameters and buffers before the first step, on the CPU; None where they do not fit.
        order: The names of parameters in the order in which the CPU's forward pass reaches their modules; empty
            without a reference.
        refused: The ops that the device refused in the meantime, if it continues past refusals.
    """

    prepared: Prepared
    losses: list[float]
    seconds: list[float]
    allocated: list[int]
    first: FollowedStep
    reference: dict[str, Tensor | None] | None = None
    weights: dict[str, Tensor] | None = None
    order: list[str] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)

    @property
    def adapter(self) -> TrainingAdapter:
        """Return the adapter that takes the steps."""
        adapter = self.prepared.loaded.adapter
        assert isinstance(adapter, TrainingAdapter)
        return adapter

    def batch(self) -> Any:
        """Prepare the input again and return it on the device, because a step may consume it."""
        return move(self.adapter.prepare(self.prepared.sample), self.prepared.device.torch_device)

    def step(self, model: nn.Module | None = None) -> float:
        """Take one step on the device and return the loss before it.

        Args:
            model: The model to train; None for the loaded one.
        """
        batch = self.batch()
        found = self.adapter.infer(self.prepared.loaded.model if model is None else model, batch)
        self.prepared.device.synchronize()
        return float(found["loss"])


def train(prepared: Prepared, flight: Path | None = None) -> Training:
    """Take ten steps on the device, or as many as the time budget allows, but at least two.

    The first is followed, and its gradients are computed on the CPU in float32 too, if memory allows.

    Args:
        prepared: The target and its input. Its adapter is a `TrainingAdapter`.
        flight: The file for the op in flight (see `watched`); None to record none.

    Raises:
        LinkFailed: The target raised.
    """
    loaded, device = prepared.loaded, prepared.device
    made = Training(prepared, [], [], [], FollowedStep({}))
    guard = target_code(Phase.TRAINING, "an optimisation step", device.evidence, device.name)
    with (
        guard,
        collected(device) as refused,
        made.adapter.grad_mode,
        autocast(loaded.profile, device.torch_device),
    ):
        made.weights = _copied(loaded.model, everything=site.fits(4 * site.float32_bytes(loaded.model)))
        with watched(flight, loaded.model), _following(made):
            _take(made)
        while len(made.losses) < 2 or (len(made.losses) < STEPS and sum(made.seconds) < BUDGET_S):
            _take(made)
    made.refused = refused
    if made.weights is not None:
        guard = target_code(Phase.TRAINING, "the float32 reference", device.evidence, "cpu")
        with guard, made.adapter.grad_mode, torch.random.fork_rng(devices=[]):
            model = made.adapter.load(torch.device("cpu"), "float32")
            load_weights(model, made.weights)
            made.reference, made.order = gradients_of(made, model)
    return made


def _take(made: Training) -> None:
    with Stopwatch() as watch:
        made.losses.append(made.step())
    made.seconds.append(watch.seconds)
    allocated = made.prepared.device.memory().allocated
    if allocated is not None:
        made.allocated.append(allocated)


def _copied(model: nn.Module, *, everything: bool) -> dict[str, Tensor] | None:
    """Return copies of a model's parameters and buffers on the CPU; None unless `everything` is to be copied."""
    return (
        {name: one.detach().cpu().clone() for name, one in model.state_dict().items()} if everything else None
    )


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a CPU model in that model's dtypes; names that it lacks and other shapes are left out."""
    with torch.no_grad():
        for name, one in model.state_dict().items():
            if name in weights and weights[name].shape == one.shape:
                one.copy_(weights[name])


def _chosen(model: nn.Module) -> tuple[dict[str, nn.Parameter], bool]:
    """Return every n-th parameter by name, so that about `_FOLLOWED` elements remain, and whether any are left out."""
    named = dict(model.named_parameters())
    total = sum(one.numel() for one in named.values())
    every = math.ceil(total / _FOLLOWED) if total else 1
    names = list(named)[:: max(1, every)]
    return {name: named[name] for name in names}, len(names) < len(named)


@contextmanager
def _following(made: Training) -> Iterator[None]:
    """Follow the parameters over the first step of every optimiser in the block, and repeat those steps on the CPU.

    The result is `made.first`, complete after the block.
    """
    model = made.prepared.loaded.model
    chosen, partial = _chosen(model)
    given = made.adapter.optimizer(model)
    found = made.first = FollowedStep({name: _cpu(one) for name, one in chosen.items()}, partial=partial)
    name_of = {id(one): name for name, one in chosen.items()}
    steps: dict[str, _OwnStep] = {}

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        found.own_optimizers |= optimizer is not given
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = name_of.get(id(parameter))
                if name is None or name in found.gradients or not parameter.requires_grad:
                    continue
                found.gradients[name] = None if parameter.grad is None else _cpu(parameter.grad)
                state = tree_map_only(Tensor, _cpu, dict(optimizer.state.get(parameter, {})))
                steps[name] = _OwnStep(optimizer, group, state)

    hook = register_optimizer_step_pre_hook(before)
    try:
        yield
    finally:
        hook.remove()
    found.after = {name: _cpu(one) for name, one in chosen.items()}
    for optimizer in {id(one.optimizer): one.optimizer for one in steps.values()}.values():
        found.expected |= _stepped(found, {k: one for k, one in steps.items() if one.optimizer is optimizer})


@dataclass
class _OwnStep:
    """The optimiser of one parameter, with the settings of the parameter's group and its state before the step."""

    optimizer: torch.optim.Optimizer
    group: dict[str, Any]
    state: dict[str, Any]


def _stepped(found: FollowedStep, steps: dict[str, _OwnStep]) -> dict[str, Tensor]:
    """Return the parameters of one optimiser after its step on the CPU, with equal settings, states and gradients.

    Parameters without a gradient are left out.
    """
    groups, copies = [], {}
    for name, one in steps.items():
        gradient = found.gradients[name]
        if gradient is None:
            continue
        copies[name] = parameter = nn.Parameter(found.before[name].clone())
        parameter.grad = gradient.clone()
        settings = {key: copy.deepcopy(value) for key, value in one.group.items() if key != "params"}
        groups.append({**settings, "params": [parameter], "foreach": None, "fused": None})
    if not groups:
        return {}
    make: Any = type(next(iter(steps.values())).optimizer)
    plain = make([{"params": one["params"]} for one in groups], lr=0.0)
    for group, ours in zip(plain.param_groups, groups, strict=True):
        group.update({key: value for key, value in ours.items() if key in group})
    for name, parameter in copies.items():
        if steps[name].state:
            plain.state[parameter] = steps[name].state
    with torch.no_grad():
        plain.step()
    return {name: one.detach() for name, one in copies.items()}


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()


def gradients_of(made: Training, model: nn.Module) -> tuple[dict[str, Tensor | None], list[str]]:
    """Return the gradients of one training step of a CPU model, and its parameters in the order of the forward pass.

    Args:
        made: The training, whose first step names the parameters.
        model: The CPU model, whose weights the step changes.

    Returns:
        The gradients by name, None for a parameter without one; and the names of the parameters of modules that ran.
    """
    order: list[str] = []
    hooks: list[RemovableHandle] = []
    for path, module in model.named_modules():
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)]
        if own:
            hooks.append(
                module.register_forward_pre_hook(
                    lambda *_, own=own: order.extend(name for name in own if name not in order)
                )
            )
    wanted = {id(one): name for name, one in model.named_parameters() if name in made.first.gradients}
    found: dict[str, Tensor | None] = {}

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in (one for group in optimizer.param_groups for one in group["params"]):
            if (name := wanted.get(id(parameter))) is not None and name not in found:
                found[name] = None if parameter.grad is None else parameter.grad.clone()

    hooks.append(register_optimizer_step_pre_hook(before))
    try:
        made.adapter.infer(model, made.adapter.prepare(made.prepared.sample))
    finally:
        for hook in hooks:
            hook.remove()
    return found, order
