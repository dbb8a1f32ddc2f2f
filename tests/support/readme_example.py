"""Run README's first example, literally, and print its document: for comparison between platforms.

    python -m tests.support.readme_example FOLDER

makes FOLDER/my-model with the config of a small Llama, calls the first `mpsprobe` line of README's blocks there (with
`--json --no-cache` before its own words), and prints the document without what differs from run to run and from machine
to machine: time, id, command, host, the installed torch's version and the sentence on this platform.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from mpsprobe.cli import main as mpsprobe

_README = Path(__file__).parents[2] / "README.md"
_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def words() -> list[str]:
    """Return the words of README's first line that calls mpsprobe, without the program's name."""
    for block in re.findall(r"^```sh\n(.*?)^```", _README.read_text(encoding="utf-8"), re.DOTALL | re.M):
        for line in block.splitlines():
            if line.startswith("mpsprobe "):
                return shlex.split(line, comments=True)[1:]
    raise AssertionError("README has no example")


def answer(folder: Path) -> dict[str, Any]:
    """Run it in this process, with a folder as its working directory, and return its document and exit code."""
    (folder / "my-model").mkdir(parents=True, exist_ok=True)
    (folder / "my-model" / "config.json").write_text(json.dumps(_CONFIG))
    os.environ["XDG_CACHE_HOME"] = os.environ["MPSPROBE_CACHE"] = str(
        folder / "cache"
    )  # no calibrations of this user
    os.chdir(folder)
    sys.argv = ["mpsprobe", "--json", *words(), "--no-cache"]
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            mpsprobe()
        except SystemExit as end:
            code = int(end.code or 0)
    document: dict[str, Any] = json.loads(out.getvalue().replace(str(torch.__version__), "(installed)"))
    for name in ("id", "started", "ended", "command", "host"):
        document.pop(name)
    made = document["predicted"]
    for place in (document["limits"], made["unknowns"]):
        place[:] = [text for text in place if "has not been confirmed on a Mac yet" not in text]
    document["command"], document["exit"] = " ".join(words()), code
    return document


def main() -> None:
    """Print the document."""
    warnings.simplefilter("ignore")
    json.dump(answer(Path(sys.argv[1])), sys.stdout)


if __name__ == "__main__":
    main()
