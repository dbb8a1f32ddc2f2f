"""The support of ATen ops on MPS by torch release, read from PyTorch's own macOS wheels.

`tools/op_support` writes the files in `data/ops/`; `docs/op-support.md` explains how, and what they cannot show.
Nothing here imports torch. Loading a release takes a few milliseconds; a look-up is a dictionary access.
"""

from __future__ import annotations

import difflib
import enum
import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from mpsprobe.errors import DataError, UsageError
from mpsprobe.knowledge import _pasted, environment
from mpsprobe.knowledge._opfile import FORM, Kernel, ReleaseFile, Wheel
from mpsprobe.run import OpVerdict

__all__ = [
    "Kernel",
    "OpSupport",
    "Release",
    "Support",
    "UnknownOpError",
    "UnknownReleaseError",
    "Wheel",
    "known_ops",
    "normalise",
    "release",
    "releases",
    "resolve_release",
    "verdict",
]


_FOLDER = Path(__file__).parent / "data" / "ops"


class UnknownOpError(UsageError):
    """No torch release with data has an op of this name, which may belong to another library."""


class UnknownReleaseError(UsageError):
    """There is no data on this torch release."""


class Support(str, enum.Enum):
    """How an op reaches a kernel on MPS in one torch release, or why it does not."""

    NATIVE = "native"  #: a kernel on the GPU
    FALLBACK = "fallback"  #: registered with the CPU-fallback kernel: always runs on the CPU
    COMPOSITE = "composite"  #: runs through other ops; `OpSupport.via` names one that is missing
    MISSING = "missing"  #: NotImplementedError; PYTORCH_ENABLE_MPS_FALLBACK=1 runs it on the CPU
    MISSING_NO_CPU = "missing-no-cpu"  #: NotImplementedError; the CPU has no kernel either
    MISSING_VIEW = "missing-view"  #: NotImplementedError; a view cannot be computed on the CPU
    ABSENT = "absent"  #: this release has no such op, another one has


_SUPPORT: Mapping[Kernel, Support] = {
    Kernel.MPS: Support.NATIVE,
    Kernel.PYTHON: Support.COMPOSITE,
    Kernel.CPU_FALLBACK: Support.FALLBACK,
    Kernel.COMPOSITE_EXPLICIT: Support.COMPOSITE,
    Kernel.STRUCTURED: Support.COMPOSITE,
    Kernel.COMPOSITE_IMPLICIT: Support.COMPOSITE,
    Kernel.SPARSE: Support.NATIVE,
    Kernel.NONE: Support.MISSING,
    Kernel.NONE_NO_CPU: Support.MISSING_NO_CPU,
    Kernel.NONE_VIEW: Support.MISSING_VIEW,
}

#: Kernels that are registered under the MPS dispatch key.
_REGISTERED = frozenset({Kernel.MPS, Kernel.PYTHON, Kernel.CPU_FALLBACK})


class OpSupport(msgspec.Struct, frozen=True):
    """The support of one op on MPS in one torch release.

    Attributes:
        op: The overload name, such as `"aten::add.Tensor"`.
        torch: The minor release, such as `"2.13"`.
        support: How it runs.
        via: The missing op that a composite calls, which PyTorch's error names; empty when it calls none.
        certain: False when only some path of the composite reaches `via`, so that it may run or fail.
        kernel: The kernel that the dispatcher finds; None when the op is absent.
        messages: The messages that the op's kernel can reach, and so may raise.
    """

    op: str
    torch: str
    support: Support
    via: str = ""
    certain: bool = True
    kernel: Kernel | None = None
    messages: tuple[str, ...] = ()

    def verdict(self, *, fallback: bool) -> OpVerdict:
        """Return what happens to a call on a Mac according to the registered kernels; unknown for an absent op.

        Args:
            fallback: Whether PYTORCH_ENABLE_MPS_FALLBACK=1 is set.
        """
        if self.support is Support.ABSENT:
            return OpVerdict.UNKNOWN
        if self.support is Support.COMPOSITE and self.via and self.certain:
            return release(self.torch).lookup(self.via).verdict(fallback=fallback)
        if self.support is Support.MISSING and fallback:
            return OpVerdict.FALLBACK
        return _VERDICT[self.support]


_VERDICT: Mapping[Support, OpVerdict] = {
    Support.NATIVE: OpVerdict.NATIVE,
    Support.FALLBACK: OpVerdict.FALLBACK,
    Support.COMPOSITE: OpVerdict.COMPOSITE,
    Support.MISSING: OpVerdict.RAISES,
    Support.MISSING_NO_CPU: OpVerdict.RAISES,
    Support.MISSING_VIEW: OpVerdict.RAISES,
}


class Release:
    """The ops of one torch release; `release()` makes and caches it.

    Attributes:
        torch: The minor release, such as `"2.13"`.
        wheel: The macOS arm64 wheel in which its facts were read.
        minimum_macos: The oldest macOS on which it offers MPS, such as `"14.0"`, as in
            `environment.minimum_macos`.
        dtypes: The dtypes that the backend accepts, each with the oldest macOS for it; `""` when any version
            will do.
        autocast: Ops by autocast policy: `fp16` runs in float16 or bfloat16, `fp32` in float32; other policies have
            PyTorch's own names.
        autograd: The ops with their own kernel under AutogradMPS.
        sparse: Ops by sparse dispatch key (`"SparseMPS"`, `"SparseCsrMPS"`).
        unimplemented: PyTorch's own list for its tests (wheels from 2.8 on): OpInfo names with variant, each with
            the dtypes that are expected to fail; None for all.
        mps_ops: Every op with a kernel registered under the MPS key: native, from Python, or the CPU fallback.
    """

    def __init__(self, data: ReleaseFile) -> None:
        self._data = data
        self._kernels = {op: kernel for kernel, ops in data.ops.items() for op in ops}
        self.torch = data.torch
        self.wheel = data.wheel
        self.dtypes: Mapping[str, str] = data.dtypes
        self.unimplemented: Mapping[str, list[str] | None] = data.unimplemented
        self.autocast = _qualified_sets(data.autocast)
        self.autograd = frozenset(_qualify(op) for op in data.autograd)
        self.sparse = _qualified_sets(data.sparse)

    @functools.cached_property
    def minimum_macos(self) -> str:
        return environment.minimum_macos(self.torch) or self._data.minimum_macos

    @functools.cached_property
    def mps_ops(self) -> frozenset[str]:
        return frozenset(_qualify(op) for op, kernel in self._kernels.items() if kernel in _REGISTERED)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Return the overload names of every op of this release."""
        return frozenset(_qualify(op) for op in self._kernels)

    @functools.cached_property
    def _messages(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {}
        for text, ops in self._data.messages.items():
            for op in ops:
                found.setdefault(op, []).append(text)
        return {op: tuple(texts) for op, texts in found.items()}

    def lookup(self, op: str) -> OpSupport:
        """Return the support of one overload, in any spelling that names exactly one.

        Raises:
            UnknownOpError: No release has such an op.
        """
        name = _pasted.qualified(op)
        short = name.removeprefix("aten::")
        kernel = self._kernels.get(short)
        if kernel is None:
            if name not in known_ops():
                raise _unknown(op)
            return OpSupport(op=name, torch=self.torch, support=Support.ABSENT)
        missing = self._data.via.get(short)
        reachable = self._data.may_reach.get(short)
        return OpSupport(
            op=name,
            torch=self.torch,
            support=_SUPPORT[kernel],
            via=_qualify((missing or reachable or [""])[0]),
            certain=missing is not None or reachable is None,
            kernel=kernel,
            messages=self._messages.get(short, ()),
        )

    def ops(self, support: Support | None = None) -> tuple[OpSupport, ...]:
        """Return all ops of this release, or those with one kind of support, by name."""
        return tuple(
            self.lookup(op)
            for op in sorted(self._kernels)
            if support is None or _SUPPORT[self._kernels[op]] is support
        )


def releases() -> tuple[str, ...]:
    """Return the minor releases of torch with data, oldest first."""
    return _releases()


@functools.cache
def _releases() -> tuple[str, ...]:
    names = (entry.name for entry in _FOLDER.iterdir())
    found = [name.removesuffix(".json") for name in names if re.fullmatch(r"\d+\.\d+\.json", name)]
    return tuple(sorted(found, key=lambda name: tuple(map(int, name.split(".")))))


def resolve_release(torch: str) -> str:
    """Return the minor release that a version belongs to: `"2.8"` for `"2.8.0"`, `"2.8"` or `"v2.8.0+cpu"`.

    Raises:
        UnknownReleaseError: The text is not a version, or there is no data on its release.
    """
    match = re.match(r"v?(\d+)\.(\d+)(?![\d])", torch.strip())
    minor = f"{match[1]}.{match[2]}" if match else ""
    if minor not in releases():
        close = difflib.get_close_matches(minor or torch, releases(), n=1, cutoff=0.7)
        meant = f"Did you mean {close[0]}? " if close else ""
        raise UnknownReleaseError(
            f"No op data on torch {torch}.", f"{meant}Known releases: {releases()[0]} to {releases()[-1]}."
        )
    return minor


def release(torch: str) -> Release:
    """Return the facts about one torch release, loading them once.

    Args:
        torch: A version that `resolve_release` accepts.

    Raises:
        UnknownReleaseError: The version cannot be resolved; see `resolve_release`.
        DataError: The data file does not fit its schema.
    """
    return _load(resolve_release(torch))


@functools.cache
def _load(minor: str) -> Release:
    file = _FOLDER / f"{minor}.json"
    try:
        data = msgspec.json.decode(file.read_bytes(), type=ReleaseFile)
    except msgspec.DecodeError as problem:
        raise DataError(f"{file}: not op data: {problem}.", "Reinstall mpsprobe.") from problem
    if data.form != FORM:
        raise DataError(
            f"{file}: written in form {data.form}, this mpsprobe reads {FORM}.", "Reinstall mpsprobe."
        )
    return Release(data)


@functools.cache
def known_ops() -> frozenset[str]:
    """Return the overload names that any release with data has."""
    return frozenset().union(*(release(torch).names for torch in releases()))


def normalise(name: str, known: Collection[str] | None = None) -> tuple[str, ...]:
    """Return the overload names that a spelling covers.

    `aten::add.Tensor`, `aten.add.Tensor` and `aten.abs.default` name one overload. `torch.add`, `aten.add` and
    `add` cover all overloads of a base, the functional ones first; so does `aten::add`, because no overload has
    that name. A module of `torch.nn` covers the ops of its function. A Python function without an ATen op of its
    name, such as `F.interpolate`, covers the ops that PyTorch's own tests of it run.

    Args:
        name: The name in any of these spellings.
        known: The names to choose from; None for those of all releases.

    Raises:
        UnknownOpError: No name fits; the hint suggests similar ones.
    """
    known = known_ops() if known is None else known
    exact = _pasted.qualified(name)
    explicit = "::" in name or name.removesuffix(".default") != name
    if exact in known and (explicit or "." in exact):
        return (exact,)
    python = _pasted.python_name(name)
    for candidate in (exact, python):
        found = _pasted.overloads(candidate, known) if candidate else ()
        if found:
            return found
    run = tuple(op for op in _pasted.run_by(_pasted.below_torch(name)) if op in known)
    if run:
        return run
    called = [op for function in _pasted.module_functions(name) for op in _pasted.overloads(function, known)]
    if called:
        return tuple(called)
    raise _unknown(name, known)


def related(name: str) -> tuple[str, ...]:
    """Return the base names of the ops that a spelling covers, and of those that they call.

    `F.conv2d` covers `aten::conv2d`, which calls `aten::convolution`; facts about either concern it. In-place
    variants and gradients are included too.

    Raises:
        UnknownOpError: No name fits; the hint suggests similar ones.
    """
    named = {_pasted.base(op) for op in normalise(name)}
    function = _pasted.python_name(name) or _pasted.qualified(name)
    short = _pasted.base(function).removeprefix("aten::")
    spelt = {_pasted.below_torch(name), short, f"nn.functional.{short}", short.replace("linalg_", "linalg.")}
    run = {_pasted.base(op) for python in spelt for op in _pasted.run_by(python)}
    named |= {op for op in run if not op.endswith("_") and _is_specific(op)}
    known = {_pasted.base(op) for op in known_ops()}
    for op in tuple(named):
        bare = op.removeprefix("aten::").strip("_")
        derived = (
            f"aten::{bare}",
            f"aten::{bare}_",
            f"aten::{bare}_backward",
            f"aten::_{bare}",
            f"aten::native_{bare}",
        )
        named |= {other for other in derived if other in known}
    return tuple(sorted(named))


@functools.cache
def _is_specific(op: str) -> bool:
    """Return whether only a few functions run an op; `aten::add`, for one, does not identify the function."""
    functions = {
        name.partition(":")[0]
        for name, called in _pasted.opinfo_ops().items()
        if any(_pasted.base(f"aten::{one}") == op for one in called)
    }
    return 0 < len(functions) <= 12


def verdict(op: str, torch: str, *, fallback: bool) -> tuple[OpVerdict, str]:
    """Return what happens to a call of `op` on a Mac with this release, and the missing op that causes it, if any.

    Only registered kernels decide it, not dtypes, sizes or known faults. An op that this release lacks, such as a
    third party's, is `unknown`.

    Raises:
        UnknownReleaseError: The version cannot be resolved; see `resolve_release`.
    """
    try:
        support = release(torch).lookup(op)
    except UnknownOpError:
        return OpVerdict.UNKNOWN, ""
    return support.verdict(fallback=fallback), support.via


def _qualify(op: str) -> str:
    return op if not op or "::" in op else f"aten::{op}"


def _qualified_sets(groups: Mapping[str, Collection[str]]) -> Mapping[str, frozenset[str]]:
    return {group: frozenset(_qualify(op) for op in ops) for group, ops in groups.items()}


def _unknown(op: str, known: Collection[str] | None = None) -> UnknownOpError:
    namespace = op.partition("::")[0] if "::" in op else "aten"
    if namespace not in {"aten", "mps", "quantized"}:
        return UnknownOpError(
            f"{op}: not an op of PyTorch itself.", f"The library {namespace} knows where it runs."
        )
    close = _pasted.suggestions(_pasted.python_name(op) or _pasted.qualified(op), known or known_ops())
    hint = (
        f"Did you mean {' or '.join(close)}?"
        if close
        else "`mpsprobe ops` takes names such as aten::add.Tensor."
    )
    return UnknownOpError(
        f"{op}: no torch release from {releases()[0]} to {releases()[-1]} has such an op.", hint
    )
