"""The recorder's ways in: a dispatch hook on a real device, and the reports of the virtual device's kernel.

The hook is active in every thread that runs a module. It records the ops for which the device's kernels are called,
below autograd and below composite ops. `watched` puts a simpler hook around the target's own code, so that after a
crash or a kill the flight recorder's file names the op in flight. `RecorderObserver` implements
`mpsprobe.device.virtual.observer.Observer`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mpsprobe.trace.flight import FlightRecorder
from mpsprobe.trace.on_import import OnImport
from mpsprobe.trace.recorder import LIMIT, Recorder
from mpsprobe.trace.signature import PLANS, make_plan, op_name
from mpsprobe.trace.source import find_site


@contextmanager
def record(
    model: nn.Module | Mapping[str, nn.Module] | None = None,
    *,
    flight: FlightRecorder | None = None,
    limit: int = LIMIT,
) -> Iterator[Recorder]:
    """Record every op of this thread, and of modules called in other threads, while the context lasts.

    Functions compiled with `torch.compile` run eagerly in the meantime.

    Args:
        model: The model that names the modules; see `ModulePaths`.
        flight: The flight recorder for the op about to run; None for none.
        limit: The greatest number of distinct uses to keep.

    Yields:
        The recorder. Read `op_uses()` at any time, preferably after the context.
    """
    recorder = Recorder(model, flight=flight, limit=limit)

    def hook_here() -> DispatchHook | None:
        """Return a hook for a thread that has none, because dispatch modes apply to one thread."""
        return None if _hooked(recorder) else DispatchHook(recorder)

    with eager(), recorder.paths.following(hook_here), DispatchHook(recorder):
        yield recorder


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled functions eagerly while the context lasts, because the compiler would trace the hook too.

    Importing the compiler takes as long as importing torch does, and most targets never import it. So it is made eager
    only when some code imports it. Before torch 2.6 nothing can be done, and compiled functions stay compiled.
    """
    if not hasattr(torch.compiler, "set_stance"):  # torch < 2.6
        yield
    elif "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        waiting = _EagerOnceImported()
        sys.meta_path.insert(0, waiting)
        try:
            yield
        finally:
            sys.meta_path.remove(waiting)
            waiting.end()


class _EagerOnceImported(OnImport):
    """Make the compiler run everything eagerly as soon as some code imports it."""

    def __init__(self) -> None:
        super().__init__("torch._dynamo", self._told)
        self._imported = False

    @contextmanager
    def _told(self) -> Iterator[None]:
        yield
        torch.compiler.set_stance("force_eager")
        self._imported = True

    def end(self) -> None:
        """Let the compiler compile again, unless an outer context still needs it eager."""
        if not self._imported:
            return
        around = [finder for finder in sys.meta_path if isinstance(finder, _EagerOnceImported)]
        if around:
            around[0]._imported = True
        else:
            torch.compiler.set_stance("default")


_PLAIN = {torch.Tensor, nn.Parameter, nn.Buffer} if hasattr(nn, "Buffer") else {torch.Tensor, nn.Parameter}


#: Composite ops whose implementation depends on whether an argument requires a gradient; their results are not views.
_LOOK_AT_GRADIENTS = frozenset({torch.ops.aten.matmul.default, torch.ops.aten.linear.default})


class DispatchHook(TorchDispatchMode):
    """Pass the ops of the thread that creates and enters it to a recorder."""

    supports_higher_order_operators = True

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder
        self._stack = recorder.paths.calls.stack  # this thread's stack; looking it up would slow every op

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True wraps the method below, at 3 µs an op. `record` turns the compiler off where that is possible.
        return not hasattr(torch.compiler, "set_stance")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record one op and run it; run a composite op without a kernel of the device as the ops that it consists of.

        The result is NotImplemented for a tensor subclass, which then unpacks itself into the ops of its parts.
        """
        if types and not _PLAIN.issuperset(types):  # autograd's own detach passes (torch.Tensor,)
            # A subclass unpacks itself into the ops that reach the device, which then arrive here.
            return NotImplemented
        plan = PLANS.get(id(func)) or make_plan(func)
        if plan.composite and not _has_own_kernel(func, args, kwargs):
            return self._take_apart(func, args, kwargs or {})
        recorder = self.recorder
        use = recorder.count(self._stack[-1], plan, args, kwargs)
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            recorder.failed(use, error)
            raise
        recorder.leave(use, result)
        return result

    def _take_apart(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a composite op so that this hook sees its parts.

        Under no_grad such an op is decomposed above the hook. Under inference_mode it arrives whole, because the
        autograd keys, at which it is decomposed, are off. ADInplaceOrView is also off here, although inference mode
        itself leaves it on. Without it `weight.t()` would not require a gradient, and `matmul`, which checks that,
        would call bmm where it calls mm without a hook. So it is switched on for those two, but not for any op that
        may return a view: that view would be made a view twice, which PyTorch refuses (`Tensor.diff`).
        """
        apart = torch._C.DispatchKey.CompositeImplicitAutograd
        if func not in _LOOK_AT_GRADIENTS:
            with self:
                return func._op_dk(apart, *args, **kwargs)
        views = torch._C.DispatchKey.ADInplaceOrView
        excluded = torch._C._dispatch_tls_is_dispatch_key_excluded(views)
        torch._C._dispatch_tls_set_dispatch_key_excluded(views, False)
        try:
            with self:
                return func._op_dk(apart, *args, **kwargs)
        finally:
            torch._C._dispatch_tls_set_dispatch_key_excluded(views, excluded)


def _has_own_kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> bool:
    """Return whether the device of the arguments has a kernel for a whole composite op (MPS: linear)."""
    backend = next(
        (
            value.device.type
            for value in _flat((*args, *(kwargs or {}).values()))
            if isinstance(value, torch.Tensor)
        ),
        "cpu",
    )
    return torch._C._dispatch_has_kernel_for_dispatch_key(op_name(func), backend.upper())


def _flat(values: tuple[Any, ...]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _hooked(recorder: Recorder) -> bool:
    """Return whether this thread has a hook that passes ops to `recorder`."""
    depth = torch._C._len_torch_dispatch_stack()
    modes = map(torch._C._get_dispatch_stack_at, range(depth))
    return any(isinstance(mode, DispatchHook) and mode.recorder is recorder for mode in modes)


@contextmanager
def watched(flight: Path | None, model: nn.Module | None = None) -> Iterator[None]:
    """Write every op that is about to run to `flight` while the context lasts.

    The file stays when the process dies or is interrupted from outside (a limit, Ctrl-C). It is removed when the
    block ends by itself or by an `Exception`, so that a later crash is not blamed on an op that has returned. Where
    the file cannot be written, nothing is recorded.

    Args:
        flight: The path of the file; None to record nothing.
        model: The model that names the modules.
    """
    try:
        black_box = FlightRecorder(flight) if flight is not None else None
    except OSError:  # a full disk must not keep the target from being judged
        black_box = None
    if flight is None or black_box is None:
        yield
        return
    with black_box:
        recorder = Recorder(model, flight=black_box)
        with eager(), recorder.paths.following(lambda: _Hook.unless_there(recorder)), _Hook(recorder):
            try:
                yield
            except Exception:
                flight.unlink(missing_ok=True)
                raise
    flight.unlink(missing_ok=True)


class _Hook(DispatchHook):
    """Record each op as it arrives, without changing how it runs.

    Unlike `DispatchHook` it does not take composite ops and tensor subclasses apart, because it watches the target's
    own run, and `aten::scaled_dot_product_attention` means more to a reader than the view that came last.
    """

    @classmethod
    def unless_there(cls, recorder: Recorder) -> _Hook | None:
        """Return a hook for a thread that has none, because dispatch modes apply to one thread."""
        modes = map(torch._C._get_dispatch_stack_at, range(torch._C._len_torch_dispatch_stack()))
        return None if any(isinstance(mode, cls) for mode in modes) else cls(recorder)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record one op and run it."""
        recorder = self.recorder
        use = recorder.count(self._stack[-1], PLANS.get(id(func)) or make_plan(func), args, kwargs)
        try:
            result = func(*args, **kwargs) if kwargs else func(*args)
        except BaseException as error:
            recorder.failed(use, error)
            raise
        recorder.leave(use, result)
        return result


@dataclass
class HostEvent:
    """A wait of the host for the device, or a copy between them, at one line of a module.

    Attributes:
        kind: The device's name of the event: `"item"`, `"copy"`, `"data-dependent"`, `"to-device"`,
            `"to-host"` and so on.
        module: The path of the innermost module.
        source: The innermost line of user code as `file:line`.
        count: The number of times that it happened.
        bytes: The number of copied bytes; 0 for a wait.
    """

    kind: str
    module: str
    source: str
    count: int = 0
    bytes: int = 0


class RecorderObserver:
    """Record what the virtual device's kernel reports.

    Attributes:
        recorder: The recorder; its `paths.following()` must be active for module paths.
        findings: The findings of the device, in order.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        # one of the two is called for every op, so they are bound directly
        self.op, self.again = recorder.op, recorder.again
        self.findings: list[Any] = []
        self._events: dict[tuple[str, str, str], HostEvent] = {}

    def sync(self, kind: str) -> None:
        """Record that the host waited for the device."""
        self._note(kind, 0)

    def crossing(self, nbytes: int, direction: str) -> None:
        """Record a copy between host and device."""
        self._note(direction, nbytes)

    def finding(self, finding: Any) -> None:
        """Append a finding of the virtual device to `findings`."""
        self.findings.append(finding)

    def host_events(self) -> list[HostEvent]:
        """Return the waits and copies, one for each kind, module and line, in the order of their first occurrence."""
        return list(self._events.values())

    def _note(self, kind: str, nbytes: int) -> None:
        key = (
            kind,
            self.recorder.paths.path(self.recorder.paths.calls.stack[-1]),
            find_site(sys._getframe(1).f_back).text,
        )
        event = self._events.setdefault(key, HostEvent(*key))
        event.count += 1
        event.bytes += nbytes
