"""The house as CONTRIBUTING.md draws it: rooms, imports, names, sizes and docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import house


def test_every_room_is_in_the_table() -> None:
    there = {
        path.stem for path in house.ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - set(house.OUTSIDE) == set(house.rooms())


def test_data_flows_one_way() -> None:
    order = {name: place for place, name in enumerate(house.rooms())}
    upward = []
    for path in house.modules():
        room = Path(house.relative(path)).with_suffix("").parts[0]
        for name, line in house.imports(path):
            other = [*name.split("."), "__init__"][1]
            if room not in house.OUTSIDE and order.get(other, -1) > order[room]:
                upward.append(f"{room} imports {other} ({house.relative(path)}:{line})")
    assert not upward


def test_no_modules_import_each_other() -> None:
    assert not house.circles(), "break the circle: a protocol, or one module"


def test_a_class_name_means_one_thing() -> None:
    found = house.classes()
    assert not found, "choose another name"


def test_a_module_name_means_one_thing() -> None:
    found = house.basenames()
    assert not found, "choose another name"


def test_no_module_is_too_long() -> None:
    sizes = {
        house.relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in house.modules()
    }
    assert not {name: size for name, size in sizes.items() if size > house.LONGEST}, "split it by concern"


def test_names_of_tests_are_short() -> None:
    names = {
        found
        for path in Path(__file__).parent.rglob("test_*.py")
        for found in re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    assert not {name for name in names if len(name) >= 60}, "say the behaviour in fewer than 60 characters"


def test_words_and_knowledge_need_no_torch() -> None:
    code = (
        "import sys, pkgutil, importlib\n"
        "for room in ('run', 'knowledge', 'scan', 'mac', 'report'):\n"
        "    package = importlib.import_module('mpsprobe.' + room)\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "import mpsprobe.comparison, mpsprobe.cli, mpsprobe.options, mpsprobe.supervision.supervisor\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_docstrings_say_more_than_names() -> None:
    assert not house.unhelpful(), "say what is returned, raised and meant, in plain English"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ('def read_file() -> str:\n    """Read the file."""', "says no more"),
        ('class FileReader:\n    """A reader of files."""', "says no more"),
        ('def size() -> int:\n    """Return bytes, likewise."""', "odd English: 'likewise'"),
        (
            'def f(x):\n    """Weigh a tensor on the device.\n\n    Args:\n        x: the tensor.\n    """',
            "fragment",
        ),
        ('def f() -> None:\n    """Return the number of bytes."""', "nothing is returned"),
        ('def f():\n    """Weigh a tensor on the device."""\n    raise UsageError', "raises UsageError"),
    ],
)
def test_a_planted_docstring_is_found(code: str, fault: str) -> None:
    node = ast.parse(code).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    text = ast.get_docstring(node)
    assert text is not None
    assert any(fault in one for one in house.faults(node, text))
