"""Facts of this machine, the catalogue of Macs, and the target Mac. Nothing here imports torch."""

from mpsprobe.mac.catalogue import NamedMac, named, names
from mpsprobe.mac.facts import LocalSystem, System, environment_at_start, host, is_virtual_gpu

__all__ = [
    "LocalSystem",
    "NamedMac",
    "System",
    "environment_at_start",
    "host",
    "is_virtual_gpu",
    "named",
    "names",
]
