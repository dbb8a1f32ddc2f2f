"""Facts of this machine, the catalogue of Macs, and the target Mac. Nothing here imports torch."""

from mpsprobe.mac.catalogue import NamedMac, named, names
from mpsprobe.mac.facts import host, is_virtual_gpu
from mpsprobe.mac.system import LocalSystem, System, environment_at_start

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
