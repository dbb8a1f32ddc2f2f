"""Name the family of an op, which is that of its FLOP formula."""

from __future__ import annotations

from mpsprobe.trace.formulas.registry import OpFamily, base_name, family_of

#: The name of each family of FLOP formulas in a report.
FAMILY_NAMES = {
    OpFamily.ATTENTION: "attention",
    OpFamily.CONVOLUTION: "convolutions",
    OpFamily.LINALG: "decompositions",
    OpFamily.MATMUL: "matrix products",
    OpFamily.POINTWISE: "elementwise",
    OpFamily.RECURRENT: "recurrent layers",
    OpFamily.REDUCTION: "norms, softmax and reductions",
}
_OTHERS = "copies and others"


def family(op: str) -> str:
    """Return the family of an op: `aten::addmm` is a matrix product."""
    found = family_of(base_name(op))
    return FAMILY_NAMES[found] if found is not None else _OTHERS
