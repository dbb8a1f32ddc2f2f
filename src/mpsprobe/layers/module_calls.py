"""A model with its input, the hooks on its modules, and the tensors inside what each call receives and returns."""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn

from mpsprobe.models.adapter import Adapter, Batch, Outputs
from mpsprobe.models.profile import Profile
from mpsprobe.phases.data import move
from mpsprobe.phases.inference import autocast
from mpsprobe.trace.flight import FlightRecorder

#: The seed that torch gets before every pass, for models that use its own generators.
SEED = 0


class Extent(str, enum.Enum):
    """How much of a target is run: a forward pass, or the target's own inference."""

    FORWARD = "forward"
    INFERENCE = "inference"


@dataclass(frozen=True)
class Subject:
    """A model with its input, as one side of a comparison.

    Attributes:
        label: The name for messages: `"mps"`, `"float32 on the CPU"`.
        model: The model in eval mode, on `device`.
        adapter: The adapter that runs it.
        profile: The profile, with this side's autocast region.
        device: The device of the model.
        batch: A function that makes the processed input anew on the CPU, because inference may consume it.
        synchronize: A function that waits for the device.
    """

    label: str
    model: torch.nn.Module
    adapter: Adapter
    profile: Profile
    device: torch.device
    batch: Callable[[], Batch]
    synchronize: Callable[[], None]

    def run(self, stage: Extent) -> Outputs:
        """Run one pass, and return its named results on the CPU.

        Raises:
            Exception: The target raised.
        """
        torch.manual_seed(SEED)
        with self.adapter.grad_mode, autocast(self.profile, self.device):
            batch = move(self.batch(), self.device)
            if stage is Extent.FORWARD:
                outputs = self.adapter.forward(self.model, batch)
            else:
                outputs = self.adapter.extract(self.adapter.infer(self.model, batch))
            self.synchronize()
            on_cpu: Outputs = move(outputs, torch.device("cpu"))
        return on_cpu


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in an output with its place: `""` for the output itself, `".logits"`, `"[0]"`.

    Mappings (such as transformers' ModelOutput), dataclasses, lists and tuples are traversed. Other objects, such
    as a key-value cache, are not, because their tensors come from modules that are examined themselves.
    """
    if isinstance(value, torch.Tensor):
        yield name, value
    else:
        for place, item in _items(value):
            yield from leaves(item, f"{name}{place}")


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as one value, for `leaves` and `replaced`."""
    return {"args": args, "kwargs": kwargs}


def replaced(value: Any, tensors: Mapping[str, torch.Tensor], name: str = "") -> Any:
    """Return the output with the tensors at the given places replaced; containers that change are copied."""
    if isinstance(value, torch.Tensor):
        return tensors.get(name, value)
    items = [(place, item, replaced(item, tensors, f"{name}{place}")) for place, item in _items(value)]
    if all(before is after for _, before, after in items):
        return value
    if isinstance(value, tuple):
        new = [after for _, _, after in items]
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, list):
        return [after for _, _, after in items]
    result = copy.copy(value)
    for place, before, after in items:
        if before is after:
            continue
        if isinstance(result, Mapping):
            result[place[1:]] = after  # type: ignore[index]
        else:
            object.__setattr__(result, place[1:], after)  # works for frozen dataclasses too
    return result


def _items(value: Any) -> list[tuple[str, Any]]:
    """Return the items of a container with their places; empty for a value that is not a container."""
    if isinstance(value, Mapping):
        return [(f".{key}", item) for key, item in value.items() if isinstance(key, str)]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module, seen when it begins or when it ends.

    Attributes:
        path: The path of the module; `""` for the model itself, the first path for a shared module.
        nth: The number of the call of this module in the pass, from 0.
        parent: The path of the module whose code makes the call; None when no module is running around it, so that
            the call is one step of the target's own loop.
        entering: Whether the call begins.
    """

    path: str
    nth: int
    parent: str | None
    entering: bool = False


#: A function of the output of a call; its result, unless None, replaces the output.
Seen = Callable[[ModuleCall, Any], Any]
#: A function of the arguments of a call; its result, unless None, replaces them.
Entering = Callable[
    [ModuleCall, tuple[Any, ...], dict[str, Any]], "tuple[tuple[Any, ...], dict[str, Any]] | None"
]


@dataclass
class _Frame:
    """A module whose call has begun and not ended."""

    path: str
    nth: int
    token: tuple[int, int] | None


class Marker:
    """Write the module in flight to a file that survives the process (see `trace.flight`).

    Attributes:
        doing: The name of the pass, such as `"forward on mps"`.
    """

    def __init__(self, flight: FlightRecorder) -> None:
        self._flight = flight
        self._uses: dict[tuple[str, str], int] = {}
        self.doing = ""

    def begin(self, path: str) -> tuple[int, int]:
        """Record that a module is about to run, and return the token to pass to `end`."""
        use = self._uses.setdefault((self.doing, path), len(self._uses))
        if use == len(self._uses) - 1:
            self._flight.name(use, self.doing, "", path, "")
        return self._flight.begin(use), use

    def end(self, token: tuple[int, int]) -> None:
        """Record that the module returned or raised."""
        self._flight.end(*token)


class Watch:
    """Follow every module call of `model` while the context lasts; all calls must come from one thread.

    Modules of TorchScript accept no hooks and are not followed.

    Args:
        model: The model whose modules are followed.
        seen: A function that is called when a call returns anything but None, innermost modules first.
        entering: A function that is called when a call begins.
        marker: The marker that records the module in flight; None for none.
    """

    def __init__(
        self, model: nn.Module, seen: Seen, entering: Entering | None = None, marker: Marker | None = None
    ) -> None:
        self._model = model
        self._seen = seen
        self._entering = entering
        self._marker = marker
        self._running: list[_Frame] = []
        self._calls: Counter[str] = Counter()
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Watch:
        for path, module in self._model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # a compiled module accepts no hooks
            self._handles.append(
                module.register_forward_pre_hook(partial(self._begin, path), with_kwargs=True)
            )
            # Called last, so that it sees the output after the model's own hooks.
            self._handles.append(module.register_forward_hook(partial(self._end, path), always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(
        self, path: str, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        parent = self._running[-1].path if self._running else None
        nth = self._calls[path]
        self._calls[path] += 1
        self._running.append(_Frame(path, nth, self._marker.begin(path) if self._marker else None))
        if self._entering is None:
            return None
        return self._entering(ModuleCall(path, nth, parent, entering=True), args, kwargs)

    def _end(self, path: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        nth = 0
        while self._running:  # an error that was caught inside has left its entries
            frame = self._running.pop()
            if frame.token is not None and self._marker is not None:
                self._marker.end(frame.token)
            if frame.path == path:
                nth = frame.nth
                break
        if output is None:  # the module raised, or returns nothing
            return None
        return self._seen(ModuleCall(path, nth, self._running[-1].path if self._running else None), output)
