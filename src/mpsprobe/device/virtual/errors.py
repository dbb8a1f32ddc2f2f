"""Errors of the virtual device itself; what a Mac would raise is raised in PyTorch's own types and words."""

from __future__ import annotations

from mpsprobe.errors import MpsprobeError


class VirtualDeviceError(MpsprobeError):
    """The virtual device cannot be used here, or not in this way."""


class OutOfReachError(VirtualDeviceError):
    """The emulation cannot follow this call: whether a Mac can is unknown. Never a failure of the model."""

    exit_code = 3


class UnsupportedInstallError(VirtualDeviceError):
    """This machine or this PyTorch build cannot carry the virtual device; the text says why."""


class AlreadyActiveError(VirtualDeviceError):
    """Another virtual device is on in this process: there is one `mps` slot, so they do not nest."""
