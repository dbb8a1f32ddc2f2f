"""Check whether one more copy of a model fits in the host's memory."""

from __future__ import annotations

import psutil
from torch import nn

from mpsprobe.quantities import decimal_size

#: The share of the free memory that a copy may take.
_SHARE = 0.8


def fits(nbytes: int) -> bool:
    """Return whether a copy of that many bytes fits in the free memory of the host."""
    return nbytes <= _SHARE * psutil.virtual_memory().available


def float32_bytes(model: nn.Module) -> int:
    """Return the size in bytes of the parameters of a float32 copy."""
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def no_room_for_reference(model: nn.Module) -> str:
    """State what the float32 reference of a model needs, and what is available."""
    needed, available = float32_bytes(model), psutil.virtual_memory().available
    return f"A float32 reference needs {decimal_size(needed)}, {decimal_size(available)} are available."
