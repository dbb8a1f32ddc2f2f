"""The reports of the virtual device to an observer: op uses, waits of the host, copies and findings."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch._ops import OpOverload


class OpFlag(enum.IntFlag):
    """How one op use ended; 0 if a native kernel ran, or would run on a Mac."""

    NATIVE = 0
    FALLBACK = 1  #: computed by the CPU, with copies there and back on a Mac
    RAISED = 2  #: it raises on the Mac; in `collect` mode the run continued as if it were fixed
    ASSUMED = 4  #: it worked on a value that had to be assumed (predict only)
    REDIRECTED = 8  #: the Mac's own implementation, rebuilt here, so likely but not certain
    FOREIGN = 16  #: the chosen release has no such op; the installed PyTorch called it


class FindingGrade(str, enum.Enum):
    """How certain a finding is."""

    CERTAIN = "certain"  #: from the release's own tables or an unconditional check in PyTorch's source
    LIKELY = "likely"  #: after a redirection, or dependent on strides or on a condition read in the source
    ASSUMED = "assumed"  #: downstream of a value that had to be assumed


@dataclass(frozen=True)
class Finding:
    """One thing that fails, or behaves differently, on the target Mac.

    Attributes:
        kind: `"missing-op"`, `"fallback"`, `"dtype"`, `"device"`, `"generator"`, `"autocast"`, `"limit"`,
            `"memory"` (the watermark), `"buffer"` (one tensor too large), `"compile"` (ran eagerly, not a failure).
        op: The overload name as in PyTorch's messages, such as `"aten::_linalg_eigh.eigenvalues"`; empty where it
            belongs to no op, such as for memory, autocast and torch.compile.
        message: The message that PyTorch gives on the Mac; for `"compile"` one of mpsprobe.
        grade: How certain it is.
        source: The innermost line of code outside PyTorch and mpsprobe, as `file:line`; in a backward pass the line
            of the forward op. Empty for none.
    """

    kind: str
    op: str
    message: str
    grade: FindingGrade
    source: str


@runtime_checkable
class Observer(Protocol):
    """Receive every event of a virtual device. All calls come from inside the kernel, so they must be short.

    The arguments of `op` are the device's own tensors (`mps:0`), as they reached the MPS dispatch key: below
    composite ops and autograd, and the same under `no_grad` and `inference_mode`. They must not be kept alive.
    """

    def op(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, flags: int
    ) -> None:
        """Receive an op that ran or was refused.

        Args:
            func: The overload.
            args: The positional arguments.
            kwargs: The keyword arguments.
            result: The result; None when the op was refused, and for `.item()`.
            flags: An `OpFlag` as an int.
        """

    def again(
        self, kind: object, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Receive an op that ran without flags, as it did before with arguments of the same shapes and dtypes.

        Args:
            kind: An object that identifies the op and the shapes and dtypes of its arguments, the same at every
                such call.
            func: The overload; see `op`.
            args: The positional arguments; see `op`.
            kwargs: The keyword arguments; see `op`.
            result: The result of the op; see `op`.
        """

    def sync(self, kind: str) -> None:
        """Receive a wait of the host: `"item"`, `"copy"`, `"data-dependent"`, `"fallback"` or `"synchronize"`."""

    def crossing(self, nbytes: int, direction: str) -> None:
        """Receive a copy of `nbytes` bytes between host and device; the direction is `"to-device"` or `"to-host"`."""

    def finding(self, finding: Finding) -> None:
        """Receive a finding: what would fail or fall back on the Mac, or code of torch.compile that ran eagerly."""


class Quiet:
    """An observer that ignores everything; a base class for those that need only some of the calls."""

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
