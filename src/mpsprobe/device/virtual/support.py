"""Check whether the virtual device runs on this machine and PyTorch; keep the fallback variable's initial value."""

from __future__ import annotations

import os
import platform
import sys
from typing import NoReturn

import torch

from mpsprobe.device.virtual.cpp import has_mps, native
from mpsprobe.device.virtual.cpp.native import installed_release
from mpsprobe.errors import UnsupportedInstallError, docs
from mpsprobe.mac import host
from mpsprobe.mac.unavailable import TorchFacts, why_no_mps

#: The releases on which the virtual device was tested.
OLDEST, NEWEST = (2, 6), (2, 15)


#: The oldest PyTorch of a Mac for the memoryless engine: its hooks return the device of a pointer from 2.8 on.
OLDEST_ON_MAC = (2, 8)

#: It works in every shell because it has no quotes; the image is built from the repository's Dockerfile.
DOCKER = (
    "docker build -t mpsprobe https://github.com/mpsprobe/mpsprobe.git && "
    'docker run --rm -v "$PWD:/work" mpsprobe'
)


def require(*, memoryless: bool = False) -> None:
    """Check that this installation can run the virtual device.

    Args:
        memoryless: Whether to check for `predict`, whose tensors have no values, so that it also runs on a Mac's
            build with MPS.

    Raises:
        UnsupportedInstallError: The machine is neither a Mac nor Linux on a known processor, it is an Intel Mac or a
            Python under Rosetta, `emulate` is to run in a PyTorch with MPS, a Mac's PyTorch has no MPS, or PyTorch is
            outside 2.6 (with MPS 2.8) to 2.15.
    """
    release, oldest = installed_release(), OLDEST
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        _refuse_x86()
    if has_mps():
        oldest = OLDEST_ON_MAC
        if not memoryless:
            raise UnsupportedInstallError(
                "The emulated device does not run where PyTorch has MPS: this Mac's own GPU computes there, and it is "
                "the better evidence.",
                f"Use --device mps on this Mac, or emulate in Docker: {DOCKER} run MODEL --device emulated",
            )
    elif sys.platform == "darwin":
        raise UnsupportedInstallError(
            f"torch {torch.__version__} was built without MPS.",
            "Install the wheel from PyPI (pip install --force-reinstall torch), or use Docker: "
            f"{DOCKER} predict MODEL",
        )
    elif not sys.platform.startswith("linux") or platform.machine() not in native.MACHINES:
        raise UnsupportedInstallError(
            f"The virtual device does not run on {platform.system()} {platform.machine()}.",
            f"It needs Linux on {' or '.join(native.MACHINES)}, or a Mac: it was not checked elsewhere.",
        )
    if not oldest <= release <= NEWEST:
        age = "older than what" if release < oldest else "newer than all that"
        raise UnsupportedInstallError(
            f"The installed torch {torch.__version__} is {age} the virtual device was checked with here.",
            f"Install torch {oldest[0]}.{oldest[1]} to {NEWEST[0]}.{NEWEST[1]} where mpsprobe runs; the release of "
            "the target Mac is another matter (--torch).",
        )


def _refuse_x86() -> NoReturn:
    """Refuse an Intel Mac and a Python under Rosetta: no torch since 2.3 has wheels for them.

    Raises:
        UnsupportedInstallError: Always, with what this Mac can do.
    """
    found = why_no_mps(host(), TorchFacts(str(torch.__version__)))
    assert found is not None
    docker = f" A prediction needs no Mac: {DOCKER} predict MODEL" if found.cause == "intel" else ""
    raise UnsupportedInstallError(found.what, f"{found.remedy}{docker}")


def unconfirmed() -> str:
    """Return a sentence that predictions in a PyTorch with MPS are not confirmed on a Mac; `""` without MPS."""
    if not has_mps():
        return ""
    return (
        "predicted on macOS: this path has not been confirmed on a Mac yet "
        f"(what remains unproved: {docs('platforms.md')}); `mpsprobe doctor` tests it on this machine."
    )


def _fallback_variable() -> bool:
    text = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK", "0")
    return text.strip().lstrip("+-").isdigit() and int(text) != 0


#: PyTorch reads the variable when its library loads; set later, it has no effect (issue 96814). It is therefore read
#: here once, at import.
FALLBACK_AT_START = _fallback_variable()
