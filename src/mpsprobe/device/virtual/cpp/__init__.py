"""The C++ hooks of the virtual device: one port, implemented for builds with MPS and for those without."""

from __future__ import annotations

from mpsprobe.device.virtual.cpp.port import Port, has_mps
from mpsprobe.device.virtual.cpp.with_mps import WithMps
from mpsprobe.device.virtual.cpp.without_mps import WithoutMps

__all__ = ["has_mps", "port_of_this_build"]


def port_of_this_build() -> Port:
    """Return a new port for the installed PyTorch."""
    return WithMps() if has_mps() else WithoutMps()
