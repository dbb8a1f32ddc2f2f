"""The tools are packages of their own, beside the product: `tools/` goes on the path for their tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
