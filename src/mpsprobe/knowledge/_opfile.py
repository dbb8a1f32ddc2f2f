"""The schema of the files in `data/ops/`: one for each torch release, written by `tools/op_support`, read by `ops`."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

#: The version of the schema, raised when a reader of the old schema would misread the new one.
FORM = 1


class Kernel(str, enum.Enum):
    """The kernel that PyTorch's dispatcher finds for an op on an MPS tensor."""

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
    NONE = "none"  #: no kernel, but the CPU has one, so the fallback variable helps
    NONE_NO_CPU = "none-no-cpu"  #: no kernel, and the CPU has none either
    NONE_VIEW = "none-view"  #: no kernel, and a view cannot be computed on another device


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The wheel from which the facts of a release were read.

    Attributes:
        file: The name of the wheel on PyPI.
        sha256: Its digest in hexadecimal.
        version: The full version, such as `"2.13.0"`.
        git: PyTorch's commit, from `torch/version.py`.
    """

    file: str
    sha256: str
    version: str
    git: str


class ReleaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The facts of one release. Op names are overload names; those of the `aten` namespace are written without it.

    Attributes:
        form: The version of the schema; see `FORM`.
        torch: The minor release, such as `"2.13"`.
        wheel: The wheel in which the facts were read.
        minimum_macos: The macOS version in the binary's error message, which may be too low (torch 2.5 names 12.3
            and needs 13.0); `environment` has the true minimum.
        dtypes: The dtypes that the backend accepts, each with the oldest macOS for it; `""` when any version
            will do.
        ops: Every op of the release, by its kernel.
        via: For each composite op that cannot run, the missing ops that its kernel calls.
        may_reach: For each composite op that may fail, the missing ops that only some path of its kernel calls.
        messages: Messages in the binary, each with the ops whose kernels can reach it.
        autocast: Ops by cast policy, as registered under AutocastMPS.
        autograd: The ops with their own kernel under AutogradMPS.
        sparse: Ops by dispatch key (`SparseMPS`, `SparseCsrMPS`).
        unimplemented: PyTorch's own list for its tests, `UNIMPLEMENTED_XFAILLIST`, which wheels ship from 2.8 on;
            empty before: OpInfo names with variant, each with the dtypes that fail, or None for all dtypes.
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
    """Return the file's bytes: sorted JSON with one op a line, so that a diff of two releases is a change log."""
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
