"""Probes of advisories: the smallest call that shows a fault, so that a Mac can be tested for it.

An advisory's ranges of torch, macOS and chip are what people reported; a probe tests the machine at hand. The
advisory's `probe` holds its name.
"""

from mpsprobe.ops.probes import linear, others
from mpsprobe.ops.probes.registry import PROBES, run

__all__ = ["PROBES", "linear", "others", "run"]
