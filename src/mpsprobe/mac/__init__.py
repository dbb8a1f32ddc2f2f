"""Facts of the machine at hand, and Macs that can be asked about by name. No torch here."""

from mpsprobe.mac.facts import host, is_virtual_gpu
from mpsprobe.mac.lineup import NamedMac, named, names
from mpsprobe.mac.runner import LocalRunner, Runner, environment_at_start

__all__ = [
    "LocalRunner",
    "NamedMac",
    "Runner",
    "environment_at_start",
    "host",
    "is_virtual_gpu",
    "named",
    "names",
]
