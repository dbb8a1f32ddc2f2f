"""Run the project's tests: `python tools/run_tests.py [pytest arguments]`, which is `make test`.

A file marked `pytestmark = pytest.mark.own_process` changes the process that it runs in (the virtual device makes
`mps` a device of it), so it gets a process of its own. All others share workers of pytest-xdist.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = "own_process"
_NOT_BENCHMARKS = ("-q", "-m", "not benchmark")
#: pytest's exit code when every test of a file was deselected.
_NOTHING = 5


def alone(folder: Path = ROOT / "tests") -> list[Path]:
    """Return the test files that are marked to run in their own process."""
    return [path for path in sorted(folder.rglob("test_*.py")) if _is_marked(path)]


def _is_marked(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return MARKER in text and any(
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "pytestmark"
        and MARKER in ast.unparse(node.value)
        for node in ast.parse(text).body
    )


def main(arguments: Sequence[str]) -> int:
    """Run them all; return 1 when any failed."""
    own = [str(path.relative_to(ROOT)) for path in alone()]
    with ThreadPoolExecutor(max_workers=2) as pool:
        codes = list(pool.map(lambda path: _pytest(path, *arguments), own))
    shared = ["--benchmark-disable", "--numprocesses", "auto", "--dist", "loadfile", "tests"]
    codes.append(_pytest(*shared, *(f"--ignore={path}" for path in own), *arguments))
    failed = [
        path
        for path, code in zip([*own, "the shared tests"], codes, strict=True)
        if code not in (0, _NOTHING)
    ]
    print(f"failed: {', '.join(failed)}" if failed else "all tests passed", flush=True)  # noqa: T201
    return int(bool(failed))


def _pytest(*arguments: str) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *_NOT_BENCHMARKS, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
