"""Will this model run on that Mac, how well, and what should its owner do?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsprobe.device.virtual.emulate import emulate as emulate

__version__ = "0.1.0"
__all__ = ["__version__", "emulate"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line must start without torch.
    if name == "emulate":
        from mpsprobe.device.virtual.emulate import emulate

        return emulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
