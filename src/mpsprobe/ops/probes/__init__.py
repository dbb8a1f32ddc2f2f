"""Probes of advisories: the smallest call that shows a fault, so that a Mac answers for itself.

An advisory's ranges of torch, macOS and chip are what people reported. A probe asks the machine at hand. Its name
stands in the advisory's `probe`.
"""

from mpsprobe.ops.probes import attention, layout, linear, others
from mpsprobe.ops.probes.registry import PROBES, run

__all__ = ["PROBES", "attention", "layout", "linear", "others", "run"]
