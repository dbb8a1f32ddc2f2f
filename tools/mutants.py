"""Plant small bugs, one at a time, and list those that no test notices.

    python tools/mutants.py                    # every module of PLAN, a sample of its mutants
    python tools/mutants.py run/document.py    # all mutants of one module
    python tools/mutants.py --most 20 --seed 2

It is a script and not a part of CI, because a mutant costs a run of the tests that concern its module. It works on
a copy of the package, which the tests import instead of the checkout's. A survivor that a user would notice needs a
test; one that only changes a word of a message, or a limit by one, does not.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "mpsprobe"
#: Modules whose bugs a user would notice, and the tests that concern each.
PLAN: dict[str, tuple[str, ...]] = {
    "run/document.py": ("tests/run", "tests/cli/test_report.py"),
    "run/journal.py": ("tests/run",),
    "quantities.py": ("tests/test_reading.py", "tests/report"),
    "toml.py": (
        "tests/test_reading.py",
        "tests/models/test_profile_plugins.py",
        "tests/models/hub/test_snapshot.py",
    ),
    "consent.py": ("tests/test_consent.py",),
    "launch.py": ("tests/test_launch.py",),
    "supervision/surroundings.py": ("tests/supervision/test_surroundings.py",),
    "phases/target_code.py": ("tests/supervision/test_supervisor.py",),
    "phases/download.py": ("tests/phases/test_stored_dtypes.py", "tests/suite"),
    "phases/transfer.py": ("tests/suite", "tests/supervision/test_supervisor.py"),
    "phases/data.py": ("tests/suite", "tests/supervision/test_supervisor.py"),
    "phases/availability.py": ("tests/phases/test_availability.py",),
    "device/virtual/rules/contract.py": ("tests/device/virtual",),
    "device/virtual/rules/limits.py": ("tests/device/virtual",),
}
#: pytest's exit codes after a failed test, or a module that could not be imported.
_FAILED = (1, 2)
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Mutant:
    """A module's text with one small bug in it.

    Attributes:
        module: The path of the module in the package.
        line: The line of the bug.
        what: A description of the change.
        text: The text of the whole module.
    """

    module: str
    line: int
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.what}"


def mutants(module: str) -> Iterator[Mutant]:
    """Yield a module's mutants: a reversed comparison, a negated condition, an omitted branch or statement."""
    source = (PACKAGE / module).read_text(encoding="utf-8")
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for index in range(count):
        tree = ast.parse(source)
        node = next(one for number, one in enumerate(ast.walk(tree)) if number == index)
        what = _broken(node)
        if what:
            yield Mutant(module, getattr(node, "lineno", 0), what, ast.unparse(tree))


def _broken(node: ast.AST) -> str:
    """Put a bug into a node; return its description, or `""` where the node allows none."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OPPOSITE:
        before = ast.unparse(node)
        node.ops[0] = _OPPOSITE[type(node.ops[0])]()
        return f"{before} -> {ast.unparse(node)}"
    if isinstance(node, (ast.If, ast.IfExp)) and not isinstance(node.test, ast.Compare):
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return ""
        before = ast.unparse(node.test)
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return f"if {before} -> if not"
    if isinstance(node, ast.BoolOp):
        before = ast.unparse(node)
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return f"{before} -> {ast.unparse(node)}"
    if isinstance(node, ast.If) and isinstance(node.body[0], (ast.Raise, ast.Return, ast.Assign)):
        before = ast.unparse(node.body[0])
        node.body = [ast.Pass()]
        return f"left out: {before.splitlines()[0]}"
    return ""


def is_noticed(module: str, text: str, limit_s: float) -> bool:
    """Return whether a test of the module fails with that text in its place, or runs past `limit_s`.

    Raises:
        SystemExit: The tests could not run at all, which would count as a noticed bug.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "src" / "mpsprobe"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / module).write_text(text, encoding="utf-8")
        # the checkout's tests, with the copy of the package ahead of the original
        environment = {**os.environ, "PYTHONPATH": str(copy.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *PLAN[module]]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return True
    if done.returncode not in (0, *_FAILED):
        sys.exit(
            f"the tests of {module} cannot be run:\n{done.stdout.decode()[-800:]}{done.stderr.decode()[-800:]}"
        )
    return done.returncode in _FAILED


def main() -> int:
    """Print each mutant that no test notices; return 1 when there is one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", choices=[*PLAN, []], help="of the package (all of the plan)")
    parser.add_argument("--most", type=int, default=10, help="mutants of each module, drawn at random (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds for the tests of one mutant (600)"
    )
    asked = parser.parse_args()
    survivors = tried = 0
    for module in asked.modules or PLAN:
        if is_noticed(module, (PACKAGE / module).read_text(encoding="utf-8"), asked.limit):
            sys.exit(f"the tests of {module} fail, or take longer than --limit, without a bug")
        found = list(mutants(module))
        for mutant in random.Random(asked.seed).sample(found, min(asked.most, len(found))):
            tried += 1
            noticed = is_noticed(mutant.module, mutant.text, asked.limit)
            survivors += not noticed
            print(f"{'noticed ' if noticed else 'SURVIVES'} {mutant}", flush=True)  # noqa: T201
    print(f"{tried} tried, {survivors} survive")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
