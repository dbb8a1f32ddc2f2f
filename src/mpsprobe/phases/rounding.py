"""Measure how much rounding alone changes a model's results: the noise floor for a device's difference.

A fixed threshold for each dtype does not work: in a deep model with random weights, bfloat16 on the CPU may differ
from float32 by 1.3 times the scale, and nothing is wrong. So the CPU runs the model in the device's dtype too, and
modules are compared one by one: each gets the input that it had in the CPU's own run, so that no error carries
over.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

#: The device's difference from the reference may be this many times the CPU's in the same dtype.
FACTOR = 3.0
#: The smallest limit for one module, in machine epsilons of the dtype. Half precisions sum in float32 and round once.
_EPSILONS = 8
#: float32 kernels sum some thousand terms in another order.
_FLOAT32_EPSILONS = 256
#: About how many modules are compared, spread evenly, and the greatest number of elements in the arguments of one.
_MODULES, _ELEMENTS = 400, 1 << 24


@dataclass(frozen=True)
class ModuleDifference:
    """How far a module's result is from float32's on the same input.

    Attributes:
        path: The path of the module.
        kind: The class of the module.
        device: The norm of the device's difference relative to the norm of the float32 result.
        cpu: The same for the CPU in the device's dtype.
        limit: The largest accepted value of `device`.
    """

    path: str
    kind: str
    device: float
    cpu: float
    limit: float

    @property
    def within(self) -> bool:
        """Return whether the difference is within rounding; NaN is not."""
        return self.device <= self.limit


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return max |difference| / max |expected|, or max |difference| if that scale is 0; 0 for empty tensors.

    It is NaN where either tensor holds NaN.
    """
    if not expected.numel():
        return 0.0
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    difference = (actual - expected).abs().max().item()
    scale = expected.abs().max().item()
    return difference / scale if scale else difference


class RecordedCalls:
    """Record the arguments of the first call of modules that are small enough to compare as a whole.

    Models with many such modules are thinned out evenly, to fewer than twice `_MODULES`.

    Attributes:
        calls: The positional and named arguments by module path, with copies of their tensors; objects such as
            caches become None.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self.calls: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> RecordedCalls:
        chosen = [path for path, module in self._model.named_modules() if path and _inside(module) <= _FEW]
        wanted = set(chosen[:: max(1, len(chosen) // _MODULES)])
        for path, module in self._model.named_modules():
            if path in wanted:
                self._hooks.append(module.register_forward_pre_hook(self._hook(path), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hook(self, path: str) -> Any:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> None:
            tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            if path in self.calls or sum(one.numel() for one in tensors) > _ELEMENTS:
                return
            # caches are left out: in a first pass they are empty, and a module that needs one raises
            self.calls[path] = tree_map(_kept, (args, kwargs))

        return hook


def _kept(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value if isinstance(value, (int, float, str, torch.dtype)) else None


def module_differences(
    calls: dict[str, tuple[Any, Any]],
    on_device: nn.Module,
    on_cpu: nn.Module,
    in_float32: nn.Module,
    autocast: Callable[[str], AbstractContextManager[Any]] = lambda _kind: nullcontext(),
) -> list[ModuleDifference]:
    """Compare modules one by one, each with the input that it had in the CPU's own run.

    Args:
        calls: The calls that `RecordedCalls` recorded in a pass of `on_cpu`.
        on_device: The model on the device.
        on_cpu: The model in the same dtype on the CPU.
        in_float32: The model in float32 on the CPU.
        autocast: A function that returns the autocast region of a device type, where the model runs in one.

    Returns:
        One entry for each call that all three models could make with floating results of one shape.
    """
    there, here = dict(on_device.named_modules()), dict(on_cpu.named_modules())
    wide = dict(in_float32.named_modules())
    first = next(on_device.parameters(), None)
    device = first.device if first is not None else torch.device("cpu")
    found = []
    for path, call in calls.items():
        try:
            with autocast(device.type):
                by_device = _result(there[path], call, lambda one: one.to(device))
            with autocast("cpu"):
                by_cpu = _result(here[path], call, lambda one: one)
            expected = _result(wide[path], call, lambda one: one.float() if one.is_floating_point() else one)
        except Exception:
            continue
        if not (by_device.shape == by_cpu.shape == expected.shape and expected.is_floating_point()):
            continue
        cpu = norm_difference(by_cpu, expected)
        epsilons = _FLOAT32_EPSILONS if by_cpu.dtype is torch.float32 else _EPSILONS
        limit = max(FACTOR * cpu, epsilons * torch.finfo(by_cpu.dtype).eps)
        difference = norm_difference(by_device, expected)
        found.append(ModuleDifference(path, type(there[path]).__name__, difference, cpu, limit))
    return found


def _result(module: nn.Module, call: tuple[Any, Any], move: Callable[[Tensor], Tensor]) -> Tensor:
    args, kwargs = tree_map_only(Tensor, lambda one: move(one.clone()), call)
    return next(one for one in tree_leaves(module(*args, **kwargs)) if isinstance(one, Tensor))


def perturbed(model: nn.Module) -> nn.Module:
    """Change a model's weights in place by a few units in the last place, drawn at random, as rounding could."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                parameter.mul_(1 + _ULPS * torch.finfo(parameter.dtype).eps * noise)
    return model


def norm_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`; NaN where either holds NaN.

    Where the norm of `expected` is 0, it is that of the difference.
    """
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    scale, difference = float(expected.norm()), float((actual - expected).norm())
    return difference / scale if scale else difference


def _inside(module: nn.Module) -> int:
    return sum(1 for _ in module.modules()) - 1


#: The greatest number of modules inside one that is compared as a whole: enough for attention with its projections.
_FEW = 8
#: The change of float32 weights in units in the last place.
_ULPS = 4
