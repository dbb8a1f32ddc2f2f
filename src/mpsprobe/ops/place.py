"""The device of a replay: where tensors go, how fallbacks are observed, and how the CPU computes its own ops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch._ops import OpOverload

from mpsprobe.device.real import real_device
from mpsprobe.device.virtual.observer import OpFlag, Quiet
from mpsprobe.device.virtual.rules.computed import COMPUTED_BY
from mpsprobe.device.virtual.session import emulate
from mpsprobe.ops.protocol import Setup
from mpsprobe.trace.signature import op_name

#: PyTorch's warning when the CPU takes over (aten/src/ATen/mps/MPSFallback.mm).
_FALLS_BACK = "fall back to run on the CPU"


@dataclass
class Seen:
    """What one call did besides returning a result.

    Attributes:
        fallbacks: The ops that the CPU computed.
        copied_bytes: The bytes that were copied between device and host because of them; None when they were not
            counted.
    """

    fallbacks: list[str] = field(default_factory=list)
    copied_bytes: int | None = None


class Place(Protocol):
    """A device on which op uses are replayed."""

    torch_device: torch.device

    @property
    def measured(self) -> bool:
        """Return whether times on the device say something about a Mac or a GPU, not just about the CPU."""

    def synchronize(self) -> None:
        """Wait until all queued work is done."""

    def watching(self) -> AbstractContextManager[Seen]:
        """Record, while the context lasts, whether the CPU computed an op of the device."""


class _Real:
    """A device of this machine as the place of a replay."""

    def __init__(self, name: str) -> None:
        device = real_device(name)
        self.torch_device = device.torch_device
        self.synchronize = device.synchronize
        self.measured = name != "cpu"

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Record the fallbacks that PyTorch warns of, and let it warn of all, not only of the first in a process."""
        seen = Seen()
        always = torch.is_warn_always_enabled()
        torch.set_warn_always(True)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield seen
        finally:
            torch.set_warn_always(always)
        for warning in caught:
            text = str(warning.message)
            if _FALLS_BACK in text:
                quoted = text.split("'")
                seen.fallbacks.append(quoted[1] if len(quoted) > 2 else text)


class _Watcher(Quiet):
    """Record what the virtual device's kernel reports of each op."""

    def __init__(self) -> None:
        self.seen = Seen()

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        if flags & OpFlag.FALLBACK:
            self.seen.fallbacks.append(op_name(func))

    def crossing(self, nbytes: int, direction: str) -> None:
        self.seen.copied_bytes = (self.seen.copied_bytes or 0) + nbytes


class _Emulated:
    """The virtual device as the place of a replay."""

    torch_device = torch.device("mps", 0)
    measured = False

    def __init__(self, watcher: _Watcher) -> None:
        self._watcher = watcher

    def synchronize(self) -> None:
        pass

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        self._watcher.seen = Seen()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the observer reports more than the warning
            yield self._watcher.seen


@contextmanager
def opened(setup: Setup) -> Iterator[Place]:
    """Open the device of a replay while the context lasts.

    Raises:
        MpsprobeError: The device is unavailable here.
    """
    if setup.threads:
        torch.set_num_threads(setup.threads)
    if setup.device != "emulated":
        yield _Real(setup.device)
        return
    watcher = _Watcher()
    with ExitStack() as stack:
        stack.enter_context(
            emulate(
                torch=setup.torch or None,
                macos=setup.macos or "15.5",
                memory_gb=setup.memory_gb or 64,
                fallback=setup.fallback,
                observer=watcher,
            )
        )
        yield _Emulated(watcher)


def on_cpu(func: OpOverload) -> Callable[..., Any]:
    """Return the function that computes an op on the CPU: its entry in `COMPUTED_BY`, or else the op itself."""
    schema = func._schema
    name = schema.name.removeprefix("aten::") + (f".{schema.overload_name}" if schema.overload_name else "")
    return COMPUTED_BY.get(name, func)
