"""The house as CONTRIBUTING.md draws it: rooms, imports, names and sizes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
