"""Count the house: `python tools/house.py` prints what CONTRIBUTING says of rooms, modules and names.

`tests/test_house.py` refuses what this module finds.
"""

from __future__ import annotations

import ast
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "src" / "mpsprobe"
TABLE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"
#: The modules of the package's public names and of `python -m`.
OUTSIDE = ("__init__", "__main__")
#: The most lines that a module may have.
LONGEST = 500
#: Folders whose modules are named by topic or by part, one set in each: a command in `cli`, a family of formulas,
#: probes or detectors, the parts of one model.
FAMILIES = (
    "cli",
    "scan/detect",
    "trace/formulas",
    "ops/probes",
    "models/tiny_drive",
    "models/alpamayo",
)


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted(ROOT.rglob("*.py"))


def relative(path: Path) -> str:
    """Return a module's path below the package, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


def rooms() -> list[str]:
    """Return the rooms of CONTRIBUTING's table, from the top."""
    rows = re.findall(r"^\| (`.*?) \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w.]+)/?`", row)]


def imports(path: Path, *, types_too: bool = True) -> Iterator[tuple[str, int]]:
    """Yield the modules of the package that a module imports, also inside functions, with the line.

    Args:
        path: The module.
        types_too: Whether to include imports under `if TYPE_CHECKING`, which never run.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if not types_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mpsprobe":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield (name if _file(name) else str(node.module)), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mpsprobe."):
                    yield alias.name, node.lineno


def _file(module: str) -> Path | None:
    """Return the file of a module of the package; None when there is none."""
    path = ROOT.joinpath(*module.split(".")[1:])
    for found in (path.with_suffix(".py"), path / "__init__.py"):
        if found.is_file():
            return found
    return None


def classes() -> dict[str, list[str]]:
    """Return the public classes that several modules define: name, and those modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(relative(path))
    return _several(found)


def basenames() -> dict[str, list[str]]:
    """Return the names that several modules outside `FAMILIES` have, ignoring a leading underscore."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        name, folder = path.stem, path.parent.relative_to(ROOT).as_posix()
        if name not in OUTSIDE and folder not in FAMILIES:
            found[name.lstrip("_")].add(relative(path))
    return _several(found)


def _several(found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(places) for name, places in sorted(found.items()) if len(places) > 1}


def circles() -> list[list[str]]:
    """Return groups of modules that import each other, including imports for types and inside functions."""
    edges = {
        _name(path): {name for name, _ in imports(path) if name != _name(path)}
        for path in modules()
        if path.parent != ROOT or path.stem not in OUTSIDE  # the face imports what it shows, lazily
    }
    order: list[str] = []
    seen: set[str] = set()

    def leave(start: str) -> None:
        stack = [(start, iter(sorted(edges.get(start, ()))))]
        seen.add(start)
        while stack:
            name, following = stack[-1]
            for other in following:
                if other in edges and other not in seen:
                    seen.add(other)
                    stack.append((other, iter(sorted(edges[other]))))
                    break
            else:
                order.append(name)
                stack.pop()

    for name in edges:
        if name not in seen:
            leave(name)
    back: dict[str, set[str]] = defaultdict(set)
    for name, others in edges.items():
        for other in others:
            back[other].add(name)
    groups: list[list[str]] = []
    placed: set[str] = set()
    for name in reversed(order):
        if name in placed:
            continue
        group, waiting = [], [name]
        placed.add(name)
        while waiting:
            one = waiting.pop()
            group.append(one)
            fresh = [other for other in back[one] if other in edges and other not in placed]
            placed.update(fresh)
            waiting += fresh
        if len(group) > 1:
            groups.append(sorted(group))
    return groups


def _name(path: Path) -> str:
    parts = ["mpsprobe", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def counts() -> str:
    """Return the figures of the house in one sentence."""
    sizes = [len(path.read_text(encoding="utf-8").splitlines()) for path in modules()]
    plain = [size for path, size in zip(modules(), sizes, strict=True) if path.stem not in OUTSIDE]
    small = sum(size < 50 for size in plain)
    return (
        f"{len(rooms())} rooms; {len(sizes)} modules, {sum(sizes):,} lines: median {statistics.median(plain):.0f}, "
        f"longest {max(sizes)}, {small} below 50; {len(classes())} class names and {len(basenames())} module names "
        f"with two meanings; {len(circles())} circles."
    )


if __name__ == "__main__":
    print(counts())  # noqa: T201
    for title, several in (("class", classes()), ("module", basenames())):
        for name, places in several.items():
            print(f"{title} {name}: {', '.join(places)}")  # noqa: T201
    for group in circles():
        print(f"circle: {', '.join(group)}")  # noqa: T201
