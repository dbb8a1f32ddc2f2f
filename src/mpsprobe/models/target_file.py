"""A target that is a user's own file: a few functions instead of an adapter class (docs/targets.md)."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import torch

from mpsprobe.errors import TargetError, UsageError, docs, first_line
from mpsprobe.models.adapter import Adapter, Batch, Outputs, Weights
from mpsprobe.models.profile import Profile
from mpsprobe.supervision.child import UserInterrupt

T = TypeVar("T")

#: The functions that a file must have, with their arguments, and those that it may have.
REQUIRED = {"load": "(device, dtype)", "sample": "()", "infer": "(model, batch)", "extract": "(raw)"}
OPTIONAL = {
    "prepare": "(sample)",
    "forward": "(model, batch)",
    "judge": "(outputs)",
    "shrink": "()",
    "train_step": "(model, batch, optimizer)",
}
#: Names in code that takes gradients. `requires_grad` is not among them, because most uses switch gradients off.
_GRADIENTS = frozenset(
    {"autograd", "backward", "enable_grad", "grad", "GradScaler", "hessian", "jacobian", "jacrev", "vjp"}
)


class TargetFileAdapter(Adapter):
    """Run the functions of a user's file as an adapter.

    `load` gets `weights` ("stored", "random" or "none") if it has an argument of that name. Without `prepare` a copy
    of the sample is the batch; without `forward` parity compares the result of `infer`.

    Attributes:
        module: The imported file.
    """

    def __init__(self, snapshot: Path, profile: Profile) -> None:
        super().__init__(snapshot, profile)
        self.module = imported(Path(profile.adapter))

    @property
    def grad_mode(self) -> AbstractContextManager[Any]:
        """Return a context that enables gradients, if the code of the file uses any; else `torch.no_grad`."""
        return torch.enable_grad() if self._asks_for_gradients else torch.no_grad()

    @functools.cached_property
    def _asks_for_gradients(self) -> bool:
        return any(map(_names_gradients, _own_files(self.module)))

    def load(self, device: torch.device, dtype: str) -> torch.nn.Module:
        load = self._function("load")
        given = {"weights": self.weights.value} if self._takes_weights() else {}
        if self.weights is Weights.RANDOM and not given:
            raise UsageError(
                f"{self.profile.adapter}: its load decides itself where weights come from.",
                "Leave --random-init out, or give load an argument named weights.",
            )
        model = load(device, None if dtype == "auto" else getattr(torch, dtype), **given)
        if not isinstance(model, torch.nn.Module):
            raise TargetError(
                f"{self.profile.adapter}: load returned a {type(model).__name__}.",
                "It must be a torch.nn.Module.",
            )
        return model.eval()

    def shrink(self) -> list[str] | None:
        if not hasattr(self.module, "shrink"):
            return None
        return [str(change) for change in self._function("shrink")()]

    def sample(self) -> dict[str, Any]:
        return self._dict("sample")

    def prepare(self, sample: dict[str, Any]) -> Batch:
        return self._dict("prepare", sample) if hasattr(self.module, "prepare") else dict(sample)

    def forward(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        if hasattr(self.module, "forward"):
            return _detached(self._dict("forward", model, batch))
        return self.extract(self.infer(model, batch))

    def infer(self, model: torch.nn.Module, batch: Batch) -> Any:
        if self._asks_for_gradients:
            model.zero_grad(set_to_none=True)  # each inference stands alone, so gradients must not accumulate
        return self._function("infer")(model, batch)

    def extract(self, raw: Any) -> Outputs:
        return _detached(self._dict("extract", raw))

    def judge(self, outputs: Outputs) -> list[str] | None:
        if not hasattr(self.module, "judge"):
            return None
        problems = self._function("judge")(outputs)
        return None if problems is None else [str(problem) for problem in problems]

    @property
    def train_step(self) -> Callable[..., torch.Tensor] | None:
        """Return a function that calls the file's `train_step` and returns its loss; None where the file has none.

        The loss is a tensor of one element; of a dict of losses it is the sum of their means.
        """
        return self._train_step if hasattr(self.module, "train_step") else None

    def _train_step(
        self, model: torch.nn.Module, batch: Batch, optimizer: torch.optim.Optimizer
    ) -> torch.Tensor:
        loss = self._function("train_step")(model, batch, optimizer)
        if isinstance(loss, dict) and loss and all(isinstance(one, torch.Tensor) for one in loss.values()):
            loss = torch.stack([one.detach().float().reshape(-1).mean() for one in loss.values()]).sum()
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise TargetError(
                f"{self.profile.adapter}: train_step must return its loss, a tensor of one element, or a dict of them."
            )
        return loss

    @property
    def doing(self) -> str:
        return f"infer of {Path(self.profile.adapter).name}"

    def _takes_weights(self) -> bool:
        return "weights" in inspect.signature(self._function("load")).parameters

    def _function(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self.module, name)
        return function

    def _dict(self, name: str, *arguments: Any) -> dict[str, Any]:
        result = self._function(name)(*arguments)
        if not isinstance(result, dict):
            raise TargetError(
                f"{self.profile.adapter}: {name} returned a {type(result).__name__}.",
                "It must be a dict of values by name.",
            )
        return result


def _own_files(module: ModuleType) -> list[Path]:
    """Return the target's file and the other `.py` files of its folder that are imported, packages excepted."""
    path = Path(str(module.__file__))
    found = (getattr(other, "__file__", None) for other in list(sys.modules.values()))
    beside = [Path(name) for name in found if name and Path(name).is_relative_to(path.parent)]
    return [path, *(one for one in beside if one.suffix == ".py" and "site-packages" not in one.parts)]


def _names_gradients(path: Path) -> bool:
    """Return whether a Python file uses a name of `_GRADIENTS`; False too for a file that cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # it is imported already, so this can only be another file
        return False
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return not names.isdisjoint(_GRADIENTS)


def _detached(value: T) -> T:
    """Return a copy of nested dicts, lists and tuples whose tensors are copies without a graph."""
    found: Any = value
    if isinstance(found, torch.Tensor):
        found = found.detach().clone()  # a gradient or a weight may change in the next call
    elif isinstance(found, dict):
        found = {key: _detached(one) for key, one in found.items()}
    elif type(found) in (list, tuple):
        found = type(found)([_detached(one) for one in found])
    return cast(T, found)


def imported(path: Path) -> ModuleType:
    """Import the file as a module. Its folder is searched for its imports, as when Python runs it.

    Raises:
        TargetError: The file cannot be imported, lacks a function, or has an optional one that is no function.
    """
    spec = importlib.util.spec_from_file_location(f"mpsprobe_target_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path}: not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pickle and others look its classes up there
    place = str(path.parent)
    added = place not in sys.path
    if added:
        sys.path.insert(0, place)
    interrupt = UserInterrupt()
    try:
        with interrupt:
            spec.loader.exec_module(module)
    except BaseException as problem:  # a user's file may raise anything
        if interrupt.is_behind(problem):
            raise
        raise TargetError(
            f"{path}: cannot be imported: {type(problem).__name__}: {first_line(problem)}{_at(problem, path)}"
        ) from problem
    finally:
        if added and place in sys.path:
            # Later imports of the file are found there too, but a file beside it must not hide an installed package.
            sys.path.remove(place)
            sys.path.append(place)
    missing = [name + REQUIRED[name] for name in REQUIRED if not callable(getattr(module, name, None))]
    if missing:
        raise TargetError(f"{path}: lacks {', '.join(missing)}.", f"{docs('targets.md')} has an example.")
    bad = [name for name in OPTIONAL if hasattr(module, name) and not callable(getattr(module, name))]
    if bad:
        raise TargetError(f"{path}: {bad[0]} is no function.", f"It is one: {bad[0]}{OPTIONAL[bad[0]]}.")
    return module


def _at(problem: BaseException, path: Path) -> str:
    lines = [line for frame, line in traceback.walk_tb(problem.__traceback__)
             if frame.f_code.co_filename == str(path)]  # fmt: skip
    return f" (at line {lines[-1]})" if lines else ""
