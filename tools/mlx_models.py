"""Write knowledge/data/mlx_models.json: the architectures of MLX's libraries, read from their installed source.

pip install --no-deps mlx-lm mlx-vlm mlx-whisper mlx-embeddings python tools/mlx_models.py
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec

from mpsprobe.routes.mlx.components import LIBRARIES, libraries

DATA = Path(__file__).parent.parent / "src/mpsprobe/knowledge/data/mlx_models.json"


def main() -> None:
    """Read the installed model libraries of MLX and write `mlx_models.json`; exit when one is not installed."""
    missing = [name for name in LIBRARIES.values() if importlib.util.find_spec(name) is None]
    if missing:  # the shipped data would be written over themselves
        sys.exit(f"Not installed: {', '.join(missing)}.")
    found = libraries()
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


if __name__ == "__main__":
    main()
