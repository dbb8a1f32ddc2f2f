"""The registration of a kernel with PyTorch's dispatcher, and the dispatch keys that matter here."""

from __future__ import annotations

from dataclasses import dataclass

#: Aliases that cover MPS, `CatchAll` (no key: an implicit composite), and the CPU keys that can take over.
_DECISIVE = (
    "CompositeImplicitAutograd",
    "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
    "CatchAll",
    "CPU",
    "QuantizedCPU",
    "SparseCPU",
)
FALLBACK = "<fallback>"


@dataclass(frozen=True, order=True)
class Registration:
    """The registration of one kernel: an op, a dispatch key and the kernel's code.

    Attributes:
        key: The dispatch key.
        op: The qualified overload name, or `<fallback>` for the key's own fallback.
        kernel: The mangled name of the function; empty when the binary has none.
        address: The start of its code in the image; None when unknown.
    """

    key: str
    op: str
    kernel: str
    address: int | None


def wanted(key: str) -> bool:
    """Return whether kernels under a dispatch key decide what an op does on MPS, or if it can run on the CPU."""
    return key in _DECISIVE or "MPS" in key
