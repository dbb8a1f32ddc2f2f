"""What the virtual device tells whoever watches it: op uses, host syncs, device crossings, findings."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch._ops import OpOverload


class OpFlag(enum.IntFlag):
    """How one op use went. 0: a native kernel ran (or would have)."""

    NATIVE = 0
    FALLBACK = 1  #: computed by the CPU: copied there and back on a Mac
    RAISED = 2  #: it raises on the Mac; in `collect` mode the run went on as if it were fixed
    ASSUMED = 4  #: it worked on a value that had to be assumed (predict only)
    REDIRECTED = 8  #: the Mac's own route, rebuilt here: likely, not certain
    FOREIGN = 16  #: the chosen release has no such op; the installed PyTorch called it


class FindingGrade(str, enum.Enum):
    """How sure a finding is."""

    CERTAIN = "certain"  #: from the release's own tables or an unconditional check in PyTorch's source
    LIKELY = "likely"  #: behind a redirection, or dependent on strides or on a condition read from source
    ASSUMED = "assumed"  #: downstream of a value that had to be assumed


@dataclass(frozen=True)
class Finding:
    """One thing that goes wrong, or differently, on the target Mac.

    Attributes:
        kind: `"missing-op"`, `"fallback"`, `"dtype"`, `"device"`, `"generator"`, `"autocast"`, `"limit"`, `"memory"`
            (the watermark), `"buffer"` (one tensor too long), `"compile"` (ran eagerly: no failure).
        op: overload name as in PyTorch's messages, e.g. `"aten::_linalg_eigh.eigenvalues"`; empty for memory.
        message: what PyTorch says on the Mac.
        grade: how sure it is.
        source: `file:line` of the innermost line of code outside PyTorch and mpsprobe.
    """

    kind: str
    op: str
    message: str
    grade: FindingGrade
    source: str


@runtime_checkable
class Observer(Protocol):
    """Receives the one stream of a virtual device. All calls come from inside the kernel: keep them short.

    The arguments of `op` are the device's own tensors (`mps:0`), as they reached the MPS dispatch key: below
    composite ops and autograd, the same under `no_grad` and `inference_mode`. They must not be kept alive.
    """

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        """Receive an op that ran; `flags` is an `OpFlag` as an int, `result` is None when the op raised."""

    def again(
        self, kind: object, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Receive an op that ran without flags, as it did before with arguments of the same shapes and dtypes.

        Args:
            kind: stands for the op and the shapes and dtypes of its arguments: the same object at every such call.
            func: the overload, as in `op`.
            args: positional arguments, as in `op`.
            kwargs: keyword arguments, as in `op`.
            result: what the op returned, as in `op`.
        """

    def sync(self, kind: str) -> None:
        """Receive a wait of the host: `"item"`, `"copy"`, `"data-dependent"`, `"fallback"` or `"synchronize"`."""

    def crossing(self, nbytes: int, direction: str) -> None:
        """Receive a copy between host and device: `"to-device"` or `"to-host"`."""

    def finding(self, finding: Finding) -> None:
        """Receive a failure or a fallback on the Mac."""


class Quiet:
    """An observer that ignores everything; a base for those that want only some of the calls."""

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        pass

    def again(
        self, kind: object, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        self.op(func, args, kwargs, result, 0)

    def sync(self, kind: str) -> None:
        pass

    def crossing(self, nbytes: int, direction: str) -> None:
        pass

    def finding(self, finding: Finding) -> None:
        pass
