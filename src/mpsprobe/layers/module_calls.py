"""Hook every module of a model, to see and to replace what each call receives and returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn

from mpsprobe.trace.flight import FlightRecorder


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module, at its beginning or at its end.

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
    """A module that is running."""

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
    """Follow every module call of `model` in one thread while the context lasts.

    Args:
        model: The model whose modules are followed.
        seen: A function that is called when a call ends, innermost modules first.
        entering: A function that is called when a call begins.
        marker: The file for the module in flight.
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
