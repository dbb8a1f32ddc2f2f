"""The form of the files in `data/ops/`: one a torch release, written by `tools/op_support`, read by `ops`."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

#: Grows when a reader of the old form would misread the new one.
FORM = 1


class Kernel(str, enum.Enum):
    """What PyTorch's dispatcher finds for an op on an MPS tensor."""

    MPS = "mps"  #: a C++ kernel registered under MPS
    PYTHON = "python"  #: a decomposition registered under MPS by PyTorch's Python code
    CPU_FALLBACK = "cpu"  #: the CPU-fallback function, registered under MPS
    COMPOSITE_EXPLICIT = (
        "explicit"  #: CompositeExplicitAutograd, written by hand or generated for `.out` forms
    )
    STRUCTURED = (
        "structured"  #: CompositeExplicitAutogradNonFunctional: generated, calls the op's `.out` form
    )
    COMPOSITE_IMPLICIT = "implicit"  #: CompositeImplicitAutograd: decomposes before autograd
    SPARSE = "sparse"  #: a kernel for sparse tensors only, under SparseMPS or SparseCsrMPS
    NONE = "none"  #: nothing, but the CPU has a kernel: the fallback variable helps
    NONE_NO_CPU = "none-no-cpu"  #: nothing, and the CPU has none either
    NONE_VIEW = "none-view"  #: nothing, and a view cannot be computed on another device


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a release's facts were read.

    Attributes:
        file: name of the wheel on PyPI.
        sha256: its digest, hexadecimal.
        version: full version, e.g. `"2.13.0"`.
        git: PyTorch's commit, from `torch/version.py`.
    """

    file: str
    sha256: str
    version: str
    git: str


class ReleaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One release. Op names are overload names; those of the `aten` namespace go without it.

    Attributes:
        form: see `FORM`.
        torch: minor release, e.g. `"2.13"`.
        wheel: where it was read.
        minimum_macos: the macOS that the binary's error text asks for; `environment` knows what is true (2.5 asks
            for 12.3 and needs 13.0).
        dtypes: dtypes that the backend accepts -> oldest macOS for them, `""` when any will do.
        ops: every op of the release, by its kernel.
        via: for a composite that cannot run: the missing ops that its kernel calls.
        may_reach: for a composite that can fail: the missing ops that some path of its kernel calls.
        messages: text in the binary -> the ops whose kernels can reach it.
        autocast: cast policy -> ops, as registered under AutocastMPS.
        autograd: ops with a kernel of their own under AutogradMPS.
        sparse: dispatch key (`SparseMPS`, `SparseCsrMPS`) -> ops.
        unimplemented: PyTorch's own list for its tests, `UNIMPLEMENTED_XFAILLIST`, which the wheel ships from
            2.8 on: OpInfo name with variant -> dtypes that fail, None for all.
    """

    form: int
    torch: str
    wheel: Wheel
    minimum_macos: str
    dtypes: dict[str, str]
    ops: dict[Kernel, list[str]]
    via: dict[str, list[str]]
    may_reach: dict[str, list[str]]
    messages: dict[str, list[str]]
    autocast: dict[str, list[str]]
    autograd: list[str]
    sparse: dict[str, list[str]]
    unimplemented: dict[str, list[str] | None]


def dump(data: ReleaseFile) -> bytes:
    """Return the file's bytes: sorted JSON, one op a line, so that a diff of two releases reads as a change log."""
    fields = []
    for name, value in msgspec.to_builtins(data).items():
        if name == "ops":
            groups = [
                f"{_json(kernel)}:{_lines(map(_json, sorted(ops)), '[]')}" for kernel, ops in value.items()
            ]
            text = _lines(groups, "{}")
        elif isinstance(value, dict) and name != "wheel":
            text = _lines((f"{_json(key)}:{_json(value[key])}" for key in sorted(value)), "{}")
        else:
            text = _json(value)
        fields.append(f"{_json(name)}:{text}")
    return (_lines(fields, "{}") + "\n").encode()


def _lines(entries: Iterable[str], brackets: str) -> str:
    body = ",\n".join(entries)
    return f"{brackets[0]}\n{body}\n{brackets[1]}" if body else brackets


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
