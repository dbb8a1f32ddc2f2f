"""List the lines that only a Mac reaches, and check that tests execute each of them.

    python tools/darwin_lines.py --list          the lines, found in the source
    python tools/darwin_lines.py [TESTS ...]     run tests, and list the lines that none of them executed

A line counts when a condition lets only macOS or a PyTorch with MPS past it: comparisons with "Darwin", "darwin" or
"linux", `has_mps()`, functions that return such a comparison, and functions that are called only from such lines.
In a conditional expression, and in `and` and `or`, only the part after the condition counts.

The tests run in a copy of the checkout whose source notes each such line when it is executed, in child processes
too (with the stand-in for a Mac's PyTorch, recorded answers of sysctl and the like). The exit code is 1 when a line
was not executed, or pytest could not run.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PACKAGE = Path("src/mpsprobe")
_WORDS = {"Darwin": True, "darwin": True, "Linux": False, "linux": False}
#: Functions of which True means a PyTorch with MPS, and modules that only such a build runs.
_PREDICATES = {"has_mps"}
_MODULES = ("device/virtual/cpp/with_mps.py",)
#: Source that is read as text or concerns code of others, not this machine.
_NOT_OURS = ("scan/",)
#: The tests that execute such lines; of those with the stand-in for a Mac's PyTorch a few are enough.
_REHEARSAL, _STAND_IN = "tests/device/test_rehearsal.py::test", "tests/device/test_stand_in.py::test"
_TESTS = (
    "tests/mac", "tests/device/test_select.py", "tests/device/test_real.py", "tests/device/test_darwin.py",
    "tests/cli/test_doctor.py", "tests/cli/test_owners.py", "tests/cli/test_expect.py",
    "tests/phases/test_availability.py", "tests/phases/test_pins.py", "tests/phases/test_requirements.py",
    "tests/routes/test_checklist.py", "tests/report/test_headline.py", "tests/report/test_markdown.py",
    "tests/test_comparison.py", "tests/device/virtual/test_emulate.py::test_a_torch_without_mps_on_a_mac_is_named",
    f"{_REHEARSAL}_doctor_on_an_m2", f"{_REHEARSAL}_a_missing_op_falls_back_or_is_refused",
    f"{_REHEARSAL}_files_are_kept_where_a_mac_keeps_them",
    f"{_STAND_IN}_readmes_first_example_is_as_on_linux", f"{_STAND_IN}_the_build_is_left_as_it_was",
    f"{_STAND_IN}_memory_generators_and_events_are_ours",
    f"{_STAND_IN}_missing_and_later_ops_do_not_reach_the_macs_fallback",
    f"{_STAND_IN}_a_process_with_metals_own_tensors_is_refused", f"{_STAND_IN}_metal_code_is_refused",
    f"{_STAND_IN}_sparse_kernels_of_a_mac_are_refused",
    f"{_STAND_IN}_a_kernel_that_the_release_lacks_decomposes",
    f"{_STAND_IN}_emulate_is_refused_with_the_reason_and_two_ways",
)  # fmt: skip
_VARIABLE = "MPSPROBE_DARWIN_LINES"
_NOTE = "_note_line_of_a_mac"

#: What a condition says of the machine where it holds, and where it does not: only a Mac, no Mac, or either.
_MAC, _OTHER, _EITHER = "mac", "other", "either"
_Meaning = tuple[str, str]


def meaning(test: ast.expr, predicates: set[str]) -> _Meaning:
    """Return on which machines a condition can be true, and on which false: only a Mac, no Mac, or either."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        where_true, where_false = meaning(test.operand, predicates)
        return where_false, where_true
    if isinstance(test, ast.BoolOp):
        each = [meaning(one, predicates) for one in test.values]
        at = 0 if isinstance(test.op, ast.And) else 1
        strong = next((one[at] for one in each if one[at] != _EITHER), _EITHER)
        weak = each[0][1 - at] if len({one[1 - at] for one in each}) == 1 else _EITHER
        return (strong, weak) if at == 0 else (weak, strong)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.comparators[0], ast.Constant):
        mac = _WORDS.get(str(test.comparators[0].value))
        if mac is not None and isinstance(test.ops[0], (ast.Eq, ast.NotEq)):
            holds = mac == isinstance(test.ops[0], ast.Eq)
            return (_MAC, _OTHER) if holds else (_OTHER, _MAC)
    if isinstance(test, ast.Call):
        name = test.func.attr if isinstance(test.func, ast.Attribute) else getattr(test.func, "id", "")
        first = test.args[0].value if test.args and isinstance(test.args[0], ast.Constant) else None
        if name in predicates:
            return _MAC, _OTHER
        if name == "startswith" and first in _WORDS:
            return (_MAC, _OTHER) if _WORDS[str(first)] else (_OTHER, _MAC)
    return _EITHER, _EITHER


@dataclass
class Lines:
    """The lines of a module that are executed only on a Mac.

    Attributes:
        module: The path of the module below the package.
        tree: The syntax tree of the module.
        statements: The statements by the identity of their node.
        parts: The parts of expressions by the identity of their node.
    """

    module: str
    tree: ast.Module
    statements: dict[int, ast.stmt] = field(default_factory=dict)
    parts: dict[int, ast.expr] = field(default_factory=dict)

    def where(self) -> list[str]:
        """Return `module:line` of each such line once, in order."""
        nodes: list[ast.stmt | ast.expr] = [*self.statements.values(), *self.parts.values()]
        return [f"{self.module}:{line}" for line in sorted({node.lineno for node in nodes})]


def find(module: str, source: str, predicates: set[str]) -> Lines:
    """Return the lines of a module that are executed only on a Mac."""
    lines = Lines(module, ast.parse(source))
    whole = module in _MODULES
    if not whole:
        _suite(lines, lines.tree.body, predicates)
    else:
        for node in ast.walk(lines.tree):
            if isinstance(node, ast.FunctionDef):
                _all(lines, node.body)
    while _called_from_there(lines):
        pass
    return lines


def _suite(lines: Lines, body: list[ast.stmt], predicates: set[str]) -> None:
    for at, one in enumerate(body):
        if isinstance(one, ast.If):
            holds, fails = meaning(one.test, predicates)
            ends = isinstance(one.body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))
            if holds == _MAC:
                _all(lines, one.body)
                if ends and fails == _OTHER:
                    return  # no Mac is left in the rest
            if fails == _MAC:
                _all(lines, one.orelse)
                if ends:
                    _all(lines, body[at + 1 :])
        for node in _own_expressions(one):
            _expression(lines, node, predicates)
        for inner in _suites(one):
            _suite(lines, inner, predicates)


def _expression(lines: Lines, node: ast.expr, predicates: set[str]) -> None:
    for one in ast.walk(node):
        if isinstance(one, ast.IfExp):
            holds, fails = meaning(one.test, predicates)
            chosen = [part for part, left in ((one.body, holds), (one.orelse, fails)) if left == _MAC]
        elif isinstance(one, ast.BoolOp):
            at = 0 if isinstance(one.op, ast.And) else 1
            means = [meaning(value, predicates)[at] for value in one.values]
            chosen = one.values[means.index(_MAC) + 1 :] if _MAC in means else []
        elif isinstance(one, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
            tests = [test for part in one.generators for test in part.ifs]
            chosen = [one.elt] if any(meaning(test, predicates)[0] == _MAC for test in tests) else []
        else:
            continue
        lines.parts.update((id(part), part) for part in chosen)


def _all(lines: Lines, body: list[ast.stmt]) -> None:
    for one in body:
        if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant):
            continue  # a docstring
        lines.statements[id(one)] = one
        for inner in _suites(one):
            _all(lines, inner)


def _called_from_there(lines: Lines) -> bool:
    """Add private functions that are used only in lines of a Mac, and return whether any was added."""
    inside = {
        id(node) for one in (*lines.statements.values(), *lines.parts.values()) for node in ast.walk(one)
    }
    named: dict[str, list[bool]] = {}
    for node in ast.walk(lines.tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            named.setdefault(node.id, []).append(id(node) in inside)
    added = False
    for one in lines.tree.body:
        if (
            isinstance(one, ast.FunctionDef)
            and one.name.startswith("_")
            and all(named.get(one.name) or [False])
        ):
            first = next((part for part in one.body if not isinstance(part, ast.Expr)), one.body[-1])
            if id(first) not in lines.statements:
                _all(lines, one.body)
                added = True
    return added


def _suites(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        inner = getattr(node, name, None)
        if isinstance(inner, list) and inner and isinstance(inner[0], ast.stmt):
            yield inner
    for handler in getattr(node, "handlers", []):
        yield handler.body
    for case in getattr(node, "cases", []):
        yield case.body


def _own_expressions(node: ast.stmt) -> Iterator[ast.expr]:
    """Yield the expressions of a statement, without those of the statements inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, (ast.withitem, ast.keyword, ast.arguments)):
            yield from (one for one in ast.walk(child) if isinstance(one, ast.expr))


class _Noting(ast.NodeTransformer):
    """Insert calls that note the execution of a Mac's lines: before statements and in parts of expressions."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        """Return a node, with a call that notes its execution if it is one of a Mac's statements or parts."""
        is_part, is_statement = id(node) in self._lines.parts, id(node) in self._lines.statements
        visited = self.generic_visit(node)
        if is_part and isinstance(visited, ast.expr):
            return ast.copy_location(ast.BoolOp(ast.Or(), [self._note(node), visited]), visited)
        if is_statement and isinstance(visited, ast.stmt):
            return [ast.copy_location(ast.Expr(self._note(node)), visited), visited]
        return visited

    def _note(self, node: ast.AST) -> ast.Call:
        where = ast.Constant(f"{self._lines.module}:{node.lineno}")  # type: ignore[attr-defined]
        return ast.Call(ast.Name(_NOTE, ast.Load()), [where], [])


def every_module(root: Path) -> list[Lines]:
    """Return the lines that only a Mac reaches, for each module of a checkout that has any."""
    package = root / _PACKAGE
    sources = {
        str(path.relative_to(package)): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }
    ours = {name: text for name, text in sources.items() if not name.startswith(_NOT_OURS)}
    predicates = set(_PREDICATES)
    for text in ours.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
                value = node.body[-1].value
                if value is not None and len(node.body) <= 2 and meaning(value, set()) == (_MAC, _OTHER):
                    predicates.add(node.name)
    return [lines for name, text in ours.items() if (lines := find(name, text, predicates)).where()]


def copy_noting(root: Path, into: Path) -> None:
    """Copy a checkout to `into`, with modules that note the execution of a Mac's lines."""
    for name in ("src", "tests", "tools", "examples"):
        shutil.copytree(root / name, into / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in root.iterdir():
        if path.is_file():
            shutil.copy(path, into / path.name)
    helper = f"from mpsprobe._lines_of_a_mac import note as {_NOTE}\n"
    (into / _PACKAGE / "_lines_of_a_mac.py").write_text(
        "import os\n_SEEN = set()\n\n\ndef note(where):\n"
        "    if where not in _SEEN:\n        _SEEN.add(where)\n"
        f"        with open(os.environ[{_VARIABLE!r}], 'a') as file:\n            file.write(where + '\\n')\n"
    )
    for lines in every_module(root):
        _Noting(lines).visit(lines.tree)
        body = ast.unparse(ast.fix_missing_locations(lines.tree)).split("\n")
        at = max((k + 1 for k, line in enumerate(body) if line.startswith("from __future__")), default=0)
        (into / _PACKAGE / lines.module).write_text("\n".join([*body[:at], helper, *body[at:]]) + "\n")


def main() -> int:
    """List the lines, or run the tests and list those that were not executed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", nargs="*", default=list(_TESTS))
    parser.add_argument("--list", action="store_true", help="only the lines")
    chosen = parser.parse_args()
    found = every_module(_ROOT)
    every = [where for lines in found for where in lines.where()]
    if chosen.list:
        for where in every:
            module, _, line = where.rpartition(":")
            text = (_ROOT / _PACKAGE / module).read_text(encoding="utf-8").splitlines()[int(line) - 1]
            sys.stdout.write(f"{where}: {text.strip()}\n")
        sys.stdout.write(f"{len(every)} lines in {len(found)} modules\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        copied, log = Path(folder) / "checkout", Path(folder) / "lines"
        copied.mkdir()
        log.touch()
        copy_noting(_ROOT, copied)
        environment = {
            **os.environ, _VARIABLE: str(log), "PYTHONPATH": os.pathsep.join([str(copied / "src"), str(copied)]),
        }  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            *chosen.tests,
        ]
        ran = subprocess.run(command, cwd=copied, env=environment, check=False)
        reached = set(log.read_text().split())
    missing = [where for where in every if where not in reached]
    sys.stdout.write("".join(f"not executed: {where}\n" for where in missing))
    sys.stdout.write(
        f"{len(every) - len(missing)} of {len(every)} lines that only a Mac reaches, in {len(found)} modules, "
        f"were executed.\n"
    )
    return int(bool(missing) or ran.returncode not in (0, 1))


if __name__ == "__main__":
    sys.exit(main())
