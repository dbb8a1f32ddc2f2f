"""Find the first torch release with which an op or dtype works on MPS, and whether the fallback variable helps."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from mpsprobe import toml
from mpsprobe.knowledge import dtypes, ops
from mpsprobe.knowledge.ops import OpSupport, Support

#: Dtypes by the name of ScalarType in PyTorch's messages.
SCALAR_TYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "ComplexHalf": "complex32",
    "cfloat": "complex64",
    "fp16": "float16",
    "bf16": "bfloat16",
    "Long": "int64",
    "long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}

_WHY_NOT = {
    Support.MISSING_NO_CPU: "the CPU has no kernel for it either",
    Support.MISSING_VIEW: "it is a view, and a view of an MPS tensor cannot be made on the CPU",
}


class OpHistory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the support of one op on MPS changed over the releases.

    Attributes:
        op: The overload name as in the op table.
        by_release: The support by minor release, oldest first.
        first_good: The earliest minor release since which it runs without the variable; "" when the newest does not.
        how: Its support in `first_good`: `native`, `composite` or `fallback`; "" when there is no such release.
        oldest: Whether `first_good` is the oldest release of the table, so that older releases may run it too.
    """

    op: str
    by_release: dict[str, Support]
    first_good: str
    how: str
    oldest: bool

    def fallback(self, torch: str | None = None) -> tuple[str, str]:
        """Return whether PYTORCH_ENABLE_MPS_FALLBACK=1 makes the op run, and if not, why.

        Args:
            torch: The minor release. If it is None or has the op, the newest release without the op is used.

        Returns:
            `"yes"` or `"no"`, with the reason; two empty texts when no known release lacks the op.
        """
        missing = [
            minor for minor, support in self.by_release.items() if not _works(support) and support != "absent"
        ]
        if not missing:
            return "", ""
        support = self.by_release[torch if torch in missing else missing[-1]]
        if support is Support.MISSING:
            return "yes", "the CPU has a kernel for it"
        return "no", _WHY_NOT.get(support, "")


def op_history(name: str) -> OpHistory | None:
    """Return the history of an op, its name spelt as in error messages; None when no known release has it.

    A name without an overload, such as `aten::cumsum`, means the first overload of that base.
    """
    try:
        op = ops.normalise(name)[0]
    except ops.UnknownOpError:
        return None
    return _history(op)


@lru_cache(maxsize=1024)
def _history(op: str) -> OpHistory:
    by_release = {minor: _support(ops.release(minor).lookup(op)) for minor in ops.releases()}
    first_good = ""
    for minor in reversed(by_release):
        if not _works(by_release[minor]):
            break
        first_good = minor
    return OpHistory(
        op=op,
        by_release=by_release,
        first_good=first_good,
        how=by_release[first_good].value if first_good else "",
        oldest=first_good == ops.releases()[0],
    )


def _support(entry: OpSupport) -> Support:
    """Return the support of an op; for a composite that certainly calls a missing op, the support of the missing op."""
    if entry.support is Support.COMPOSITE and entry.via and entry.certain:
        return _support(ops.release(entry.torch).lookup(entry.via))
    return entry.support


def _works(support: Support) -> bool:
    return support in (Support.NATIVE, Support.COMPOSITE, Support.FALLBACK)


class LibraryOp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """C++ ops of another library that users report as missing on MPS.

    Attributes:
        names: The names with the library's namespace, such as `"torchvision::nms"`.
        library: The name of the library.
        source: The web address of the source.
        since: The first release of the library with MPS kernels for them; empty when no source states one.
        note: A remark in one sentence; empty for none.
    """

    names: tuple[str, ...]
    library: str
    source: str
    since: str = ""
    note: str = ""


class _LibraryFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: tuple[LibraryOp, ...]


def library_op(name: str) -> LibraryOp | None:
    """Return the facts about another library's op, such as `torchvision::nms`; None for one without data."""
    return next((entry for entry in _library_ops() if name in entry.names), None)


@lru_cache(maxsize=1)
def _library_ops() -> tuple[LibraryOp, ...]:
    return toml.load(Path(__file__).parent / "data" / "library_ops.toml", _LibraryFile).op


def dtype_name(text: str) -> str:
    """Return torch's name of a dtype that a message spells `BFloat16`, `torch.long` or `Float8_e4m3fn`."""
    plain = text.removeprefix("torch.")
    return SCALAR_TYPES.get(plain, plain.lower())


def dtype_first_good(dtype: str) -> str | None:
    """Return the oldest minor release since which MPS tensors can have this dtype.

    Empty when they cannot in the newest release; None when `dtype` is not the name of a dtype.
    """
    if dtype not in _all_dtypes():
        return None
    first = ""
    for minor in reversed(ops.releases()):
        if dtype not in dtypes.accepted(minor):
            break
        first = minor
    return first


@lru_cache(maxsize=1)
def _all_dtypes() -> frozenset[str]:
    """Return the names of the dtypes of torch: those that some release accepts on MPS, and those that none does."""
    known = frozenset().union(*(dtypes.accepted(minor) for minor in ops.releases()))
    never = {"float64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"}
    return known | never | {"float8_e8m0fnu", "float4_e2m1fn_x2"}
