"""The house as CONTRIBUTING.md draws it: a room imports only rooms above it, and some never import torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mpsprobe

ROOT = Path(mpsprobe.__file__).parent
TABLE = Path(__file__).parent.parent / "CONTRIBUTING.md"
#: The package's own face and its door for `python -m`.
OUTSIDE = ("__init__", "__main__")


def rooms() -> list[str]:
    """Rooms in the order of the table, from the top."""
    rows = re.findall(r"^\| (`.*?) \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [name.removesuffix(".py") for row in rows for name in re.findall(r"`([\w.]+)/?`", row)]


def imports() -> Iterator[tuple[str, str, str]]:
    """(room, room it imports, file and line) of every import within the package, also of those inside functions."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mpsprobe."):
                names = [str(node.module)]
            elif isinstance(node, ast.ImportFrom) and node.module == "mpsprobe":
                names = [f"mpsprobe.{alias.name}" for alias in node.names if (ROOT / alias.name).exists()]
                names += [f"mpsprobe.{a.name}" for a in node.names if (ROOT / f"{a.name}.py").exists()]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("mpsprobe.")]
            for name in names:
                line = getattr(node, "lineno", 0)
                yield inside[0], name.split(".")[1], f"{path.relative_to(ROOT)}:{line}"


def test_every_room_is_in_the_table() -> None:
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - set(OUTSIDE) == set(rooms())


def test_data_flows_one_way() -> None:
    order = {name: place for place, name in enumerate(rooms())}
    upward = [
        f"{room} imports {other} ({where})"
        for room, other, where in imports()
        if room not in OUTSIDE and order[other] > order[room]
    ]
    assert not upward


def test_the_words_and_the_knowledge_need_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "for room in ('run', 'knowledge', 'scan', 'mac', 'report'):\n"
        "    package = importlib.import_module('mpsprobe.' + room)\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "import mpsprobe.comparison, mpsprobe.cli, mpsprobe.supervision.supervisor\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
