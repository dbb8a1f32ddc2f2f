"""The rules of one torch release on one macOS: what is missing, falls back or is refused, with which message."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from mpsprobe.device.backward import ForwardPlaces
from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.observer import Finding, FindingGrade, Observer, OpFlag
from mpsprobe.device.virtual.rules import limits, messages
from mpsprobe.device.virtual.rules.limits import KernelCheck
from mpsprobe.device.virtual.schema import Op
from mpsprobe.errors import UsageError, VirtualDeviceError
from mpsprobe.knowledge import dtypes, ops

OnFail = Literal["raise", "collect"]

#: The message about code that was passed to torch.compile.
COMPILED = (
    "torch.compile: the Metal code that Inductor would generate is out of reach here, so whether it compiles and "
    "what it computes on a Mac is unknown; the eager code ran instead."
)


class Contract:
    """What a Mac with this torch release and macOS accepts.

    The op table decides what is missing, not the installed PyTorch. Composite ops still decompose as in the
    installed one; see docs/virtual-device.md.

    Args:
        release: A torch version with data in `knowledge.ops`.
        macos: The macOS version, such as `"15.5"`.
        fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set on that Mac.
        on_fail: `"raise"` as a Mac does, or `"collect"` to record failures and continue as if they were fixed.
        observer: An observer that is called with every finding.

    Raises:
        VirtualDeviceError: The release needs a newer macOS.

    Attributes:
        findings: What failed, fell back or was passed to torch.compile, in order.
        refused: The dtypes that no result can have, each with the error message.
        questioned: The dtypes that this release or one of `alike` refuses.
        alike: Other releases that would have given the same answers so far (`ask`).
    """

    def __init__(
        self,
        release: str,
        macos: str,
        *,
        fallback: bool,
        on_fail: OnFail = "raise",
        observer: Observer | None = None,
    ) -> None:
        self.release = ops.release(release)
        self.macos = macos
        self.fallback = fallback
        self.findings: list[Finding] = []
        self._on_fail: OnFail = on_fail
        _forward.clear()
        self._observer = observer
        self._warned = False
        version = tuple(int(part) for part in self.release.torch.split("."))
        self.version = (version[0], version[1])
        self._on_cpu = frozenset(one.op for one in self.release.ops(ops.Support.FALLBACK))
        system = parse_macos(macos)
        if system < parse_macos(self.release.minimum_macos):
            raise VirtualDeviceError(
                f"torch {self.release.torch} has no MPS on macOS {macos}.",
                f"It needs macOS {self.release.minimum_macos}.",
            )
        self.refused: dict[torch.dtype, str] = messages.refused_dtypes(self.release.torch, macos)
        self.questioned = frozenset(self.refused)
        self.alike: list[Contract] = []
        self._checks: dict[str, Sequence[KernelCheck]] = {}
        self._fallback_sites: set[str] = set()
        self._compiled: set[str] = set()

    # ----------------------------------------------------------------------------------------- other releases

    def follow(self, others: Iterable[Contract]) -> None:
        """Compare with other releases from now on: `alike` keeps those that give the same answers (`ask`)."""
        self.alike = list(others)
        self.questioned = self.questioned.union(*(one.refused for one in self.alike))

    def ask(self, question: Callable[[Contract], Any]) -> None:
        """Drop the releases from `alike` whose answer to a question differs from this one's.

        A session depends on its release only through such questions, so a release that is left at the end would
        have had the same session, call by call.
        """
        if self.alike:
            mine = question(self)
            self.alike = [one for one in self.alike if question(one) == mine]

    def composite_here(self) -> list[str]:
        """Return the ops that the installed PyTorch decomposes and only a release of `alike` has a kernel for.

        Such an op is not reported, so `ask` must be called for it.
        """
        elsewhere = frozenset[str]().union(*(one._registered for one in self.alike)) - self._registered
        return sorted(name for name in elsewhere if schema.composite_key(f"aten::{name}"))

    def as_reported(self, finding: Finding) -> Finding:
        """Return a session's finding in this release's words, which differ only for missing ops."""
        if finding.kind != "missing-op":
            return finding
        text = messages.missing_op(finding.op, self.release.torch, self.release.wheel.git)
        return replace(finding, message=text)

    # ------------------------------------------------------------------------------------------- op support

    @functools.cached_property
    def registered(self) -> list[str]:
        """Return the names, without `aten::`, of the ops with a kernel at the MPS key, in alphabetical order."""
        return sorted(self._registered)

    @functools.cached_property
    def _registered(self) -> frozenset[str]:
        return frozenset(name.removeprefix("aten::") for name in self.release.mps_ops)

    def kernel_of(self, op: Op) -> int | str:
        """Return what runs an op at the MPS key: `"kernel"`, `"CPU"` or `"composite"`, or the flags of a missing op."""
        if op.name in self._registered:
            return "CPU" if self.runs_on_cpu(op.name) else "kernel"
        return "composite" if schema.composite_key(op.qualified) else self._missing(op)

    def runs_on_cpu(self, name: str) -> bool:
        """Return whether the release registers the op with the CPU-fallback kernel."""
        return f"aten::{name}" in self._on_cpu

    def missing(self, op: Op) -> int:
        """Decide what happens to an op without a kernel at the MPS key.

        Returns:
            RAISED for a missing op, or FALLBACK where that is enabled; REDIRECTED for a composite op of the release;
            FOREIGN for an op that it does not have.

        Raises:
            NotImplementedError: The flag is RAISED, and failures are not collected; the message is the release's own.
        """
        self.ask(lambda one: one.kernel_of(op))
        flags = self._missing(op)
        if flags & OpFlag.RAISED:
            text = messages.missing_op(op.qualified, self.release.torch, self.release.wheel.git)
            self.fail("missing-op", op.qualified, NotImplementedError(text), FindingGrade.CERTAIN)
        return flags

    def _missing(self, op: Op) -> int:
        try:
            support = self.release.lookup(op.qualified).support
        except ops.UnknownOpError:
            support = (
                ops.Support.MISSING
            )  # another library's op without an MPS kernel reaches the same fallback
        if support is ops.Support.ABSENT:
            return OpFlag.FOREIGN
        if support not in _MISSING:
            return OpFlag.REDIRECTED  # composite there, with its own kernel in the installed PyTorch
        return OpFlag.FALLBACK if self.fallback else OpFlag.RAISED

    def check_sparse(self, op: Op, key: str) -> Exception | None:
        """Record and return the error of an op on sparse tensors without a kernel; None where the release has one.

        Args:
            op: The op.
            key: `"SparseMPS"` or `"SparseCsrMPS"`.
        """
        self.ask(lambda one: op.qualified in one.release.sparse.get(key, frozenset()))
        if op.qualified in self.release.sparse.get(key, frozenset()):
            return None
        text = (
            f"Could not run '{op.qualified}' with arguments from the '{key}' backend. This could be because the "
            "operator doesn't exist for this backend, or was omitted during the selective/custom build process (if "
            "using custom build)."
        )
        error = NotImplementedError(text)
        self._note(Finding("missing-op", op.qualified, text, FindingGrade.CERTAIN, innermost_source()))
        return error

    def note_compiled(self) -> None:
        """Record once for each line that code was passed to torch.compile and runs eagerly here."""
        source = innermost_source()
        if source not in self._compiled:
            self._compiled.add(source)
            self._note(Finding("compile", "", COMPILED, FindingGrade.CERTAIN, source))

    def warn_fallback(self, op: Op, text: str = "") -> None:
        """Warn that the CPU computes an op: once, or always if `torch.set_warn_always` is set. Record each op once.

        Args:
            op: The op that the CPU computes.
            text: The kernel's own message; empty for that of an op without a kernel.
        """
        text = text or messages.fallback(op.qualified)
        if op.qualified not in self._fallback_sites:
            self._fallback_sites.add(op.qualified)
            self._note(Finding("fallback", op.qualified, text, FindingGrade.CERTAIN, innermost_source()))
        if not self._warned or torch.is_warn_always_enabled():
            self._warned = True
            warnings.warn(text, UserWarning, stacklevel=_stack_level())

    # -------------------------------------------------------------------------------------------- arguments

    def checks(self, op: Op) -> Sequence[KernelCheck]:
        """Return the checks of arguments that the op's kernel makes on MPS."""
        found = self._checks.get(op.name)
        if found is None:
            found = limits.for_op(op.qualified, op.base, self.version, parse_macos(self.macos))
            self._checks[op.name] = found
        return found

    def checks_dtypes_only(self, op: Op) -> bool:
        """Return whether all checks of an op read only the dtypes of a call's tensors."""
        return all(check.by_dtype for check in self.checks(op))

    def checks_refuse(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Return whether a kernel's check refuses these arguments or leaves them to the CPU, without recording it."""
        checks = self.checks(op)
        return bool(checks) and _first(checks, limits.Call(args, kwargs)) is not None

    def may_fall_back(self, op: Op) -> bool:
        """Return whether some calls of the op run on the CPU, here or in a release of `alike`."""
        return any(
            one.runs_on_cpu(op.name) or any(check.falls_back for check in one.checks(op))
            for one in (self, *self.alike)
        )

    def check_arguments(self, op: Op, args: Sequence[Any], kwargs: dict[str, Any]) -> int:
        """Run the kernel's checks of its arguments; the first that refuses them fails, or leaves the call to the CPU.

        Returns:
            The flags of the op use: `OpFlag.FALLBACK` where the CPU computes it, else 0.
        """
        checks = self.checks(op)
        differing = [one for one in self.alike if one.checks(op) != checks]
        if not checks and not differing:
            return 0
        call = limits.Call(args, kwargs)
        met = _first(checks, call)
        if differing:
            apart = [one for one in differing if _first(one.checks(op), call) != met]
            self.alike = [one for one in self.alike if one not in apart]
        if met is None:
            return 0
        text, error, grade, falls_back = met
        if falls_back:
            self.warn_fallback(op, text)
            return OpFlag.FALLBACK
        self.fail("limit", op.qualified, error(text), grade)
        return 0

    def mixed_devices(self, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse CPU tensors among device tensors, with the op's own message.

        Raises:
            RuntimeError: Always, unless failures are collected.
        """
        self.ask(lambda one: messages.mixed_devices(op, args, kwargs, one.version))
        text, grade = messages.mixed_devices(op, args, kwargs, self.version)
        self.fail("device", op.qualified, RuntimeError(text), grade)

    def wrong_generator(self, op: Op) -> None:
        """Refuse the CPU's random generator, as check_generator does (aten/src/ATen/Utils.h).

        Raises:
            RuntimeError: Always, unless failures are collected.
        """
        text = "Expected a 'mps' device type for generator but found 'cpu'"
        self.fail("generator", op.qualified, RuntimeError(text), FindingGrade.CERTAIN)

    def refuse(self, op: Op, result: Tensor) -> Tensor:
        """Refuse a result with a dtype that the op cannot produce; when collecting, convert it to the nearest dtype.

        Memory has no dtype: except for float64 and the dtypes of a later macOS, tensors of any dtype can be
        allocated and copied, and only computing fails (issue 176981).
        """
        dtype = result.dtype
        self.ask(lambda one: one._refusal(op, dtype))
        refusal = self._refusal(op, dtype)
        if refusal is None:
            return result
        error, text = refusal
        self.fail("dtype", op.qualified, error(text), FindingGrade.CERTAIN)
        return result.to(nearest(dtype))

    def _refusal(self, op: Op, dtype: torch.dtype) -> tuple[type[Exception], str] | None:
        """Return the error of an op whose result would have `dtype`; None when MPS allows that."""
        text = self.refused.get(dtype)
        if text is None:
            return None
        moved = op.base in dtypes.moves() and dtype is not torch.float64
        if moved and text == messages.refused_by_kernel(dtype):
            return None
        if op.base.rstrip("_") in _METAL_BINARY:
            return self._untouchable(op, dtype)
        return TypeError, text

    def check_operand(self, op: Op, tensor: Tensor) -> bool:
        """Refuse a tensor with a dtype that the op's kernels of the release cannot read or write.

        Copies and views are checked by `refuse`, not here. A contiguous tensor is filled with zeros whatever its
        dtype (fill_mps_tensor_, operations/ConstantOps.mm), and `.item()` copies one element to the host.

        Returns:
            Whether it was refused and the run continues, because failures are collected.
        """
        self.ask(lambda one: one._refused_operand(op, tensor))
        refusal = self._refused_operand(op, tensor)
        if refusal is None:
            return False
        error, text = refusal
        item = op.base == "_local_scalar_dense"
        self.fail("dtype", op.qualified, error(text), FindingGrade.LIKELY if item else FindingGrade.CERTAIN)
        return True

    def _refused_operand(self, op: Op, tensor: Tensor) -> tuple[type[Exception], str] | None:
        base, dtype = op.base, tensor.dtype
        if dtype not in self.refused or base in dtypes.moves() or base in _UNTOUCHED or not tensor.numel():
            return None
        if base == "_local_scalar_dense":
            if dtype in _SCALARS:
                return None
            text = f"\"_local_scalar_dense_mps\" not implemented for '{messages.scalar_type(dtype)}'"
            return NotImplementedError, text
        if base in ("zero_", "fill_") and tensor.is_contiguous() and not dtype.is_complex:
            return None
        return self._untouchable(op, dtype)

    def check_unlikely(self, op: Op, tensors: Sequence[Tensor]) -> None:
        """Refuse a call that the host cannot compute, if PyTorch's tests expect MPS to fail in its dtypes too."""
        names = {messages.dtype_name(one.dtype) for one in tensors}
        self.ask(lambda one: one._unlikely(op, names))
        text = self._unlikely(op, names)
        if text is not None:
            self.fail("dtype", op.qualified, NotImplementedError(text), FindingGrade.LIKELY)

    def _unlikely(self, op: Op, names: set[str]) -> str | None:
        try:
            restriction = dtypes.check(op.qualified, names, self.release.torch, self.macos)
        except UsageError:
            return None
        raises = restriction is not None and restriction.effect is dtypes.Effect.RAISES
        return restriction.message if restriction is not None and raises else None

    def _untouchable(self, op: Op, dtype: torch.dtype) -> tuple[type[Exception], str]:
        if op.base.rstrip("_") in _METAL_BINARY and self.version >= (2, 8) and dtype is not torch.float64:
            return RuntimeError, f"Undefined type {messages.scalar_type(dtype)}"  # scalarToMetalTypeString
        text = self.refused[dtype]
        return TypeError, messages.FLOAT64_IN_KERNEL if text == messages.FLOAT64 else text

    def check_copy(self, op: Op, dst: Tensor, src: Tensor) -> None:
        """Refuse a copy from the device, from or to a dtype that the kernels of copies do not support."""
        if src.dtype not in self.questioned and dst.dtype not in self.questioned:
            return
        self.ask(lambda one: one._refused_copy(dst, src))
        restriction = self._refused_copy(dst, src)
        if restriction is not None:
            error = TypeError if restriction.error == "TypeError" else RuntimeError
            grade = FindingGrade.CERTAIN if src.dtype is not dst.dtype else FindingGrade.LIKELY
            self.fail("dtype", op.qualified, error(restriction.message), grade)

    def _refused_copy(self, dst: Tensor, src: Tensor) -> dtypes.Restriction | None:
        refused = self.refused
        if not src.is_mps or (src.dtype not in refused and dst.dtype not in refused) or not src.numel():
            return None
        rearranges = src.stride() != dst.stride()
        if (
            dst.is_mps
        ):  # one blit only where both are contiguous (copy_kernel_mps); to the host equal strides are enough
            rearranges = not (src.is_contiguous() and dst.is_contiguous())
        return dtypes.refused_copy(
            messages.dtype_name(src.dtype),
            messages.dtype_name(dst.dtype),
            self.release.torch,
            self.macos,
            rearranges=rearranges,
        )

    # --------------------------------------------------------------------------------------------- failures

    def fail(self, kind: str, op: str, error: Exception, grade: FindingGrade) -> None:
        """Record a failure, and raise `error` unless failures are collected."""
        self._note(Finding(kind, op, str(error), grade, innermost_source()))
        if self._on_fail == "raise":
            raise error

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Record failures without raising them while the context lasts, as on a Mac with the fixes applied."""
        before, self._on_fail = self._on_fail, "collect"
        try:
            yield
        finally:
            self._on_fail = before

    def _note(self, finding: Finding) -> None:
        self.findings.append(finding)
        if self._observer is not None:
            self._observer.finding(finding)


def _first(
    checks: Sequence[KernelCheck], call: limits.Call
) -> tuple[str, type[Exception], FindingGrade, bool] | None:
    """Return the message, error, grade and fallback of the first check that refuses the arguments; None for none."""
    for check in checks:
        text = check.test(call)
        if text is not None:
            return text, check.error, check.grade, check.falls_back
    return None


def parse_macos(version: str) -> tuple[int, int]:
    """Parse a macOS version: (15, 5) for `"15.5"`, (15, 0) for `"15"`.

    Raises:
        UsageError: The text is not a version.
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?(?:\.\d+)*", version.strip())
    if match is None:
        raise UsageError(f"macOS {version!r} is not a version.", "It looks like 15.5.")
    return int(match[1]), int(match[2] or 0)


_MISSING = {ops.Support.MISSING, ops.Support.MISSING_NO_CPU, ops.Support.MISSING_VIEW}
#: Ops with Metal kernels instead of MPSGraph since 2.8; issue 176981 shows `mul`.
_METAL_BINARY = frozenset({"add", "sub", "mul", "div"})
#: Ops that read no values of their operands.
_UNTOUCHED = frozenset({"is_set_to", "is_same_size", "record_stream", "_has_same_storage_numel", "is_pinned"})
#: Dtypes that MPS refuses but `.item()` reads (AT_DISPATCH of operations/Scalar.mm).
_SCALARS = frozenset({torch.float64, torch.complex128})
#: The dtype that a user would choose instead of one that MPS refuses.
_NEAREST: dict[torch.dtype, torch.dtype] = {
    torch.float64: torch.float32,
    torch.complex128: torch.complex64,
} | {getattr(torch, f"uint{bits}"): torch.int64 for bits in (16, 32, 64)}


def nearest(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of MPS to use instead of a refused one; float32 where no other is nearer."""
    return _NEAREST.get(dtype, torch.float32)


@functools.lru_cache(maxsize=1)
def _not_users() -> tuple[str, ...]:
    """Return path prefixes of code that only passes ops on: PyTorch's and mpsprobe's, except its models."""
    package = Path(__file__).parents[3]
    rooms = (str(one) for one in package.iterdir() if one.name != "models")
    return str(Path(torch.__file__).parent), *rooms, "<frozen", "<string>"


#: Lines of the forward pass on the active device, for ops that may need gradients.
_forward: ForwardPlaces[str] = ForwardPlaces()


def note_forward() -> None:
    """Record the line of the op that is running, for findings in its backward; do nothing without gradients."""
    if torch.is_grad_enabled():
        _forward.note(innermost_source())


def innermost_source() -> str:
    """Return `file:line` of the innermost frame outside PyTorch and mpsprobe (except its models); `""` for none.

    In a backward pass it is the line of the forward op.
    """
    if (noted := _forward.of_backward()) is not None:
        return noted
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_not_users()):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def _stack_level() -> int:
    """Return the `stacklevel` with which a warning shows the user's line."""
    frame = sys._getframe(1).f_back
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(_not_users()):
        frame, level = frame.f_back, level + 1
    return level + 1
