"""Write knowledge/data/mlx_models.json: the architectures of mlx-lm and mlx-vlm, read from their installed source.

pip install --no-deps mlx-lm mlx-vlm
python tools/mlx_models.py
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from mpsprobe.routes.mlx.support import LIBRARIES, libraries

DATA = Path(__file__).parent.parent / "src/mpsprobe/knowledge/data/mlx_models.json"


def main() -> None:
    """Write the file."""
    found = libraries()
    assert len(found) == len(LIBRARIES)
    DATA.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")


if __name__ == "__main__":
    main()
