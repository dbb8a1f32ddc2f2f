"""Where targets that this package makes are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """`$MPSPROBE_CACHE`, else `mpsprobe` in the platform's folder for caches. Not created here."""
    if named := os.environ.get("MPSPROBE_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mpsprobe"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpsprobe"
