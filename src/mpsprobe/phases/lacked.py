"""Which dtypes MPS lacks, for the checks of phases 4 and 5: one rule, `mpsprobe.knowledge.dtypes.accepted`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.rules.messages import dtype_name, refused_dtypes
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops

#: The one dtype that cannot even be moved to MPS in any release; that of the others moves, and no kernel reads it.
NEVER_MOVED = torch.float64


def lacked(device: Device) -> Mapping[torch.dtype, str]:
    """Return the dtypes that MPS lacks in the release and on the macOS of a run, each with PyTorch's text.

    The release is the target Mac's where it is emulated, and the installed one elsewhere (the newest that is known
    where that one is not).
    """
    if isinstance(device, Emulated):
        return device.session.contract.refused
    macos = platform.mac_ver()[0] or "26.0"
    try:
        release = ops.resolve_release(torch.__version__)
    except UsageError:
        release = ops.releases()[-1]
    return refused_dtypes(release, macos)


def lacking_text(dtypes: Iterable[torch.dtype]) -> str:
    """Return which dtypes those are and what MPS does with them, as the end of a sentence about tensors."""
    kinds = sorted({dtype_name(one) for one in dtypes})
    names = " and ".join(kinds)
    if kinds == [dtype_name(NEVER_MOVED)]:
        return f"{names}, which MPS cannot hold"
    if dtype_name(NEVER_MOVED) in kinds:
        return (
            f"{names}: MPS cannot hold the first kind, and no kernel of this release computes with the rest"
        )
    return (
        f"{names}, which no kernel of this release on MPS can read: memory moves, and a cast or an op raises"
    )
