"""Whether this machine and PyTorch can carry the virtual device; the fallback variable as it was at start."""

from __future__ import annotations

import os
import platform
import re
import sys

import torch

from mpsprobe.device.virtual.cpp import guard
from mpsprobe.device.virtual.errors import UnsupportedInstallError

#: Releases that the tricks were checked on.
OLDEST, NEWEST = (2, 6), (2, 15)

_NOT_A_MAC = "Use the Mac's own MPS here: the virtual device is for machines without it."


def installed_release() -> tuple[int, int]:
    """Minor release of the installed PyTorch: (2, 13) for `"2.13.0+cpu"`."""
    match = re.match(r"(\d+)\.(\d+)", torch.__version__)
    assert match is not None
    return int(match[1]), int(match[2])


def require() -> None:
    """Refuse what cannot work, saying why.

    Raises:
        UnsupportedInstallError: a Mac, another system or machine, or a PyTorch outside 2.6 ... 2.15.
    """
    if sys.platform == "darwin":
        raise UnsupportedInstallError("The virtual device does not run on macOS.", _NOT_A_MAC)
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        raise UnsupportedInstallError(
            f"The virtual device does not run on {platform.system()} {platform.machine()}.",
            "It needs Linux on x86-64: it was not checked elsewhere.",
        )
    release = installed_release()
    if not OLDEST <= release <= NEWEST:
        raise UnsupportedInstallError(
            f"The virtual device was not checked with torch {torch.__version__}.",
            f"Install torch {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}.",
        )
    if guard.is_native():
        raise UnsupportedInstallError("This PyTorch has an MPS backend of its own.", _NOT_A_MAC)


def _fallback_variable() -> bool:
    text = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    return text.strip().lstrip("+-").isdigit() and int(text) != 0


#: PyTorch reads the variable when its library loads; set later, it has no effect (issue 96814). So it is read
#: here once, at import.
FALLBACK_AT_START = _fallback_variable()
