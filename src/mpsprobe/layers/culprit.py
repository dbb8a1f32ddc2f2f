"""Find the ATen ops that the first diverging module calls on the device, with their lines and known faults."""

from __future__ import annotations

from collections.abc import Sequence

from mpsprobe.knowledge import advisories
from mpsprobe.layers.result import OUTSIDE, Culprit
from mpsprobe.run import Mac, OpUse

#: Devices whose op uses are those that a Mac dispatches.
_AS_MPS = ("mps", "emulated")
#: The greatest number of op uses: a module's own code has a dozen; those of a whole model would hide the answer.
_KEPT = 40


def add_op_uses(culprit: Culprit, uses: Sequence[OpUse], mac: Mac, device: str) -> None:
    """Give the first diverging module the op uses of its own code, and the advisories that they meet.

    An op use belongs to the module's own code if the module is the innermost one. If its code calls no op itself,
    those of the modules inside it count.
    """
    path = "" if culprit.module == OUTSIDE else culprit.module
    own = [use for use in uses if use.module == path]
    if not own and path:
        own = [use for use in uses if use.module.startswith(f"{path}.")]
    own.sort(key=lambda use: -use.count)
    culprit.op_uses = own[:_KEPT]
    if device in _AS_MPS:
        found = [match for use in own for match in advisories.match(use, mac.torch, mac.macos, mac.chip)]
        culprit.advisories = sorted({match.advisory.id for match in found})
