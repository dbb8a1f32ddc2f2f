"""Run the project's tests: `python tools/run_tests.py [pytest arguments]`, which is `make test`.

A file marked `pytestmark = pytest.mark.own_process` changes the process that it runs in (the virtual device makes
`mps` a device of it), so it gets a process of its own. All others share workers of pytest-xdist. Both run side by
side, because some tests wait for a server, a child or a time limit and leave a core idle.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKER = "own_process"
_NOT_BENCHMARKS = ("-q", "-m", "not benchmark")
#: The files of their own process that take longest, longest first.
_LONGEST = (
    "tests/suite/test_plugin.py",
    "tests/ops/test_campaign.py",
    "tests/ops/test_isolation.py",
    "tests/prediction/test_training.py",
    "tests/device/virtual/test_emulate.py",
    "tests/prediction/test_predict.py",
)
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
    """Run all tests, the marked files one by one beside the shared workers; return 1 when any failed."""
    own = [str(path.relative_to(ROOT)) for path in alone()]
    waiting = deque(sorted(own, key=lambda path: _LONGEST.index(path) if path in _LONGEST else len(_LONGEST)))
    # In the order of collection: the command line's files, which are few tests that take long, come first.
    shared = [
        "--benchmark-disable",
        "--numprocesses",
        "auto",
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        "tests",
    ]
    codes: dict[str, int] = {}
    with ThreadPoolExecutor(max_workers=1) as beside:
        first = beside.submit(_drain, waiting, arguments, codes)
        codes["the shared tests"] = _pytest(
            *shared, *(f"--ignore={path}" for path in own), *arguments
        ).returncode
        _drain(waiting, arguments, codes)
        first.result()
    failed = [path for path, code in codes.items() if code not in (0, _NOTHING)]
    print(f"failed: {', '.join(failed)}" if failed else "all tests passed", flush=True)  # noqa: T201
    return int(bool(failed))


def _drain(waiting: deque[str], arguments: Sequence[str], codes: dict[str, int]) -> None:
    """Run the waiting files one at a time, print the output of each when it ends, and store its exit code."""
    while True:
        try:
            path = waiting.popleft()
        except IndexError:
            return
        done = _pytest(path, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        codes[path] = done.returncode
        print(f"{path}\n{done.stdout}", end="", flush=True)  # noqa: T201


def _pytest(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *_NOT_BENCHMARKS, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, **how)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
