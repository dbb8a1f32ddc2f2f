"""Draw the reports of `reports/examples/` anew: `make examples`, or `python tools/examples.py [NAME ...]`.

HTML and Markdown are kept; run.json and junit.xml are not, because they are large and any run leaves its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "reports" / "examples"
MAC = ("--mac", "m1-max-64", "--torch", "2.8", "--macos", "15.5")
#: Folder of each example, and its command.
COMMANDS: dict[str, tuple[str, ...]] = {
    "tiny-drive-torch-2.8": ("run", *MAC),
    "alpamayo-r1-10b": ("predict", "nvidia/Alpamayo-R1-10B", *MAC),
    "alpamayo-r1-10b/emulated": (
        "run", "nvidia/Alpamayo-R1-10B", "--random-init", "--shrink", "--device", "emulated", "--keep-going", *MAC,
    ),
}  # fmt: skip
_KEPT = ("report.html", "report.md")


def draw(name: str) -> bool:
    """Make one example, and return whether it left a report. Its command may well end with 1: that is a finding."""
    target = FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mpsprobe", *COMMANDS[name], "--output", folder]
        subprocess.run(command, check=False)
        made = [Path(folder) / file for file in _KEPT]
        if not all(path.is_file() for path in made):
            return False
        for path in made:
            shutil.copy(path, target / path.name)
    return True


if __name__ == "__main__":
    lost = [name for name in sys.argv[1:] or COMMANDS if not draw(name)]
    sys.exit(f"no report: {', '.join(lost)}" if lost else 0)
