"""Facts of the machine at hand, and Macs that can be asked about by name. No torch here."""

from mpsprobe.mac.host import host, is_virtual_gpu
from mpsprobe.mac.named import NamedMac, named, names
from mpsprobe.mac.runner import LocalRunner, Runner

__all__ = ["LocalRunner", "NamedMac", "Runner", "host", "is_virtual_gpu", "named", "names"]
