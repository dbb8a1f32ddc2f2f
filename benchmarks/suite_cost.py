"""Measure the CPU time of the whole suite on the default target relative to that of its imports.

    python benchmarks/suite_cost.py [ROUNDS]

Both are child processes whose CPU time (user and system, their children included) the kernel counts; the two
alternate, and medians are compared. The suite is meant to take no more than twice its imports.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile

#: The imports of a run of the default target.
IMPORTS = (
    "import torch, transformers, pytest, pytest_benchmark.plugin, pytest_timeout, huggingface_hub, jinja2;"
    "from transformers import AutoImageProcessor, AutoTokenizer, Qwen3VLForConditionalGeneration"
)


def cpu_seconds(command: list[str]) -> float:
    """Return the CPU seconds, user and system, of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print one row for each round, and the ratio of the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    imports, suite = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "mpsprobe", "--quiet", "run", "--output", folder]
        cpu_seconds(run)  # the target's folder is built once a machine
        for _ in range(rounds):
            imports.append(cpu_seconds([sys.executable, "-c", IMPORTS]))
            suite.append(cpu_seconds(run))
            print(f"imports {imports[-1]:6.2f} s   suite {suite[-1]:6.2f} s")  # noqa: T201
    ratio = statistics.median(suite) / statistics.median(imports)
    print(f"ratio of medians {ratio:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
