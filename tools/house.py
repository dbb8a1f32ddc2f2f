"""Count the house: `python tools/house.py` prints what CONTRIBUTING says of rooms, modules and names.

It also reads docstrings by the rules that a machine can check. `tests/test_house.py` refuses what this module finds.
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
#: Folders whose docstrings are read.
READ = (ROOT, ROOT.parents[1] / "tools", ROOT.parents[1] / "benchmarks")
#: Words that say nothing about what a docstring describes.
_PLAIN = frozenset(
    re.findall(
        r"\w+",
        "return yield make get set a an the of on in to for with from by and or as at is are be whether one its this "
        "that it all each every none if",
    )
)
#: Phrases that nobody in this field uses, or that CONTRIBUTING's table of words replaces.
_ODD = re.compile(
    r"\b(likewise|see there|of all of them|to be had|the asked|asked about|what stands|stands? beside|is said|"
    r"mend(s|ed)?|ghosts?|lineup|culprit|teacher(?! forcing)|student|take MPS|comfortabl[ey]|be told apart)\b"
)
#: The end of a word, which its stem lacks.
_ENDINGS = ("ings", "ing", "ies", "ed", "es", "s", "ion", "er", "e")


def modules() -> list[Path]:
    """Return the path of each Python file below `src/mpsprobe`."""
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
    """Return the names of public classes that several modules define, each with those modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(relative(path))
    return _several(found)


def basenames() -> dict[str, list[str]]:
    """Return the names that several modules share, each with those modules; folders of `FAMILIES` are left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        name, folder = path.stem, path.parent.relative_to(ROOT).as_posix()
        if name not in OUTSIDE and folder not in FAMILIES:
            found[name.lstrip("_")].add(relative(path))
    return _several(found)


def _several(found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    return {name: sorted(places) for name, places in sorted(found.items()) if len(places) > 1}


def circles() -> list[list[str]]:
    """Return groups of modules that import each other, directly or not, imports for types and in functions included."""
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


def unhelpful() -> list[str]:
    """Return `FILE:LINE name: fault` of each docstring that repeats a name, hides an error or is not plain English."""
    found = []
    for folder in READ:
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)):
                    place = f"{path.relative_to(ROOT.parents[1])}:{node.lineno} {node.name}"
                    found += [f"{place}: {fault}" for fault in faults(node, text)]
    return found


def faults(node: ast.FunctionDef | ast.ClassDef, text: str) -> Iterator[str]:
    """Yield what is wrong with the docstring of a function or class, in a few words each."""
    first, _, rest = text.partition("\n\n")
    known = {_stem(word) for word in _words(node.name)}
    new = [word for word in _words(first) if word not in _PLAIN and _stem(word) not in known]
    if len(first.split()) < 4 or not new or (len(new) == 1 and not rest):
        yield f"says no more than the name: {first!r}"
    if odd := _ODD.search(text):
        yield f"odd English: {odd.group()!r}"
    for entry in re.findall(r"^ +\w+: ([a-z]\w* .*)", rest, flags=re.MULTILINE):
        yield f"a description is a fragment: {entry!r}"
    if isinstance(node, ast.ClassDef):
        return
    if first.startswith("Return ") and node.returns is not None and ast.unparse(node.returns) == "None":
        yield "nothing is returned"
    if not node.name.startswith("_") and not any(
        ".command" in ast.unparse(one) for one in node.decorator_list
    ):
        for name in sorted(_raised(node)):
            if name not in text:
                yield f"raises {name} without saying so"


def _raised(function: ast.FunctionDef) -> set[str]:
    """Return the names of the error classes that the function's own statements raise."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = ast.unparse(raised).rpartition(".")[2]
            if re.fullmatch(r"[A-Z]\w*(Error|Failed|Interrupt)", name):
                names.add(name)
        waiting += ast.iter_child_nodes(node)
    return names - {"NotImplementedError", "AttributeError"}


def _words(text: str) -> list[str]:
    """Return the lower-case words of a sentence or of an identifier in either style."""
    return re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower())


def _stem(word: str) -> str:
    """Return a word without its ending, so that `stops` and `stop` are the same word."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


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
    for fault in unhelpful():
        print(fault)  # noqa: T201
