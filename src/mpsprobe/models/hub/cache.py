"""Where targets that this package makes are kept."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """`$MPSPROBE_CACHE`, else `mpsprobe` in the platform's folder for caches. Not created here."""
    if named := os.environ.get("MPSPROBE_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mpsprobe"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mpsprobe"


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made now if it is not there.

    Safe with several processes at once: each makes one of its own, and a rename puts one in place.

    Args:
        folder: in the cache.
        make: fills the empty folder that it is given.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        make(building)
        building.chmod(0o755)  # mkdtemp makes it private
        building.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
