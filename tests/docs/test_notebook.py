"""The notebook of `examples/` runs from top to bottom and says what its text promises."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.docs.test_commands import CHECKOUT


def test_the_notebook_runs_and_shows_the_refusals() -> None:
    cells = json.loads((CHECKOUT / "examples" / "my_layer.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert "mps:0 3.0" in done.stdout
    assert "is not currently implemented for the MPS device" in done.stdout
    assert "torch.Size([2, 4])" in done.stdout
    assert "float64" in done.stdout
    assert not any(cell.get("outputs") for cell in cells)  # as run by its reader, and not by us
