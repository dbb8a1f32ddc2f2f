"""The dtypes that MPS lacks, for the checks of phases 4 and 5, by `mpsprobe.knowledge.dtypes.accepted`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.device.real import Device
from mpsprobe.device.virtual.rules.messages import dtype_name, refused_dtypes
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops

#: The only dtype that cannot be moved to MPS in any release. Tensors of the others can be moved, but no kernel reads
# them.
NEVER_MOVED = torch.float64


def lacked(device: Device) -> Mapping[torch.dtype, str]:
    """Return the dtypes that MPS lacks in the release and on the macOS of a run, each with PyTorch's message.

    The release is the target Mac's where it is emulated, and otherwise the installed one (or the newest known
    release where that one is not known).
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
    """Return the end of a sentence that names those dtypes and what MPS does with them."""
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
