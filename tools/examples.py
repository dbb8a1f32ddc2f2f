"""Draw the reports of `reports/examples/` anew: `make examples`, or `python tools/examples.py [NAME ...]`.

HTML and Markdown are kept; run.json and junit.xml are not, because they are large and any run leaves its own.
Alpamayo's examples need its package, which is not ours: clone github.com/NVlabs/alpamayo, put its `src` on PYTHONPATH
and install what it imports (`mpsprobe.models.alpamayo.published.NEEDED`).
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "reports" / "examples"
MAC = ("--mac", "m1-max-64", "--torch", "2.8", "--macos", "15.5")
#: The command of each example, by its folder.
COMMANDS: dict[str, tuple[str, ...]] = {
    "tiny-drive": ("run", "--device", "emulated"),
    "tiny-drive-torch-2.8": ("run", *MAC),
    "llama-8b-gptq": (
        "predict", "examples/llama-8b-gptq", "--mac", "m4-max-40c-64", "--torch", "2.8", "--macos", "15.5",
    ),
    "alpamayo-r1-10b": ("predict", "nvidia/Alpamayo-R1-10B", *MAC),
    "alpamayo-r1-10b/emulated": (
        "run", "nvidia/Alpamayo-R1-10B", "--random-init", "--shrink", "--device", "emulated", "--keep-going", *MAC,
    ),
}  # fmt: skip
_KEPT = ("report.html", "report.md")
#: Paths of this machine, and the text that replaces each in an example.
_PATHS = {
    f"{ROOT}/": "",
    os.environ.get("MPSPROBE_CACHE") or str(Path.home() / ".cache" / "mpsprobe"): "~/.cache/mpsprobe",
    f"{site.getsitepackages()[0]}/": "",
}


def draw(name: str) -> bool:
    """Make one example anew, and return whether it wrote both reports; exit code 1 of the command is a finding."""
    target = FOLDER / name
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if path.is_file():
            path.unlink()
    # a relative path, because the report quotes the command
    command = [sys.executable, "-m", "mpsprobe", *COMMANDS[name], "--output", str(target.relative_to(ROOT))]
    subprocess.run(command, check=False, cwd=ROOT)
    made = [path for path in target.iterdir() if path.is_file()]
    for path in made:
        if path.name not in _KEPT:
            path.unlink()
        else:  # paths of this machine are useless to a reader
            text = path.read_text(encoding="utf-8")
            for here, there in _PATHS.items():
                text = text.replace(here, there)
            path.write_text(text, encoding="utf-8")
    return {path.name for path in made}.issuperset(_KEPT)


if __name__ == "__main__":
    lost = [name for name in sys.argv[1:] or COMMANDS if not draw(name)]
    sys.exit(f"no report: {', '.join(lost)}" if lost else 0)
