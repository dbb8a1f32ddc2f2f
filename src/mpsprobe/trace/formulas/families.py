"""Name the family of an op, which is that of its FLOP formula."""

from __future__ import annotations

from mpsprobe.trace import formulas
from mpsprobe.trace.formulas.registry import FORMULAS, base_name

#: What the families of FLOP formulas are called in a report.
_NAMES = {
    "attention": "attention",
    "convolution": "convolutions",
    "linalg": "decompositions",
    "matmul": "matrix products",
    "pointwise": "elementwise",
    "recurrent": "recurrent layers",
    "reductions": "norms, softmax and reductions",
}
_OTHERS = "copies and others"


def family(op: str) -> str:
    """Return the family of an op: `aten::addmm` is a matrix product."""
    counted = FORMULAS.get(base_name(op))  # filled by the import of the package
    if counted is None:
        return _OTHERS
    return _NAMES.get(counted.__module__.removeprefix(f"{formulas.__name__}."), _OTHERS)
