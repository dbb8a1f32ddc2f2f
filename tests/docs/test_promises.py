"""README promises nothing that the matrix of docs/platforms.md does not show."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_INDEX = (_ROOT / "docs" / "index.md").read_text(encoding="utf-8")
_UNSEEN = "not confirmed on a Mac yet"
_SAID = re.compile(r"No report from a Mac has\s+confirmed it yet")


def rows() -> list[list[str]]:
    """Return the cells of each row of the matrix, without its head."""
    page = (_ROOT / "docs" / "platforms.md").read_text(encoding="utf-8")
    lines = [line for line in page.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_what_no_mac_has_confirmed_is_said_first() -> None:
    unseen = any(_UNSEEN in cell for row in rows() if row[0] == "macOS" for cell in row)
    for page in (_README.partition("\n## ")[0], _INDEX.partition("\n## ")[0]):
        assert bool(_SAID.search(page)) == unseen


def test_the_systems_that_are_named_have_a_row_that_says_yes() -> None:
    named = re.search(r"It runs on Linux \(([\w-]+) and ([\w-]+)\)", _README)
    assert named is not None
    words = {"arm64": "aarch64"}
    for machine in named.groups():
        found = [
            row for row in rows() if row[0].startswith("Linux") and row[1] == words.get(machine, machine)
        ]
        assert any(row[3].startswith("yes") for row in found), machine


def test_pythons_and_releases_are_those_of_the_package() -> None:
    from packaging.specifiers import SpecifierSet

    from mpsprobe.knowledge import ops

    text = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needs = re.search(r'requires-python = "([^"]+)"', text)
    pythons = re.search(r"Python (3\.\d+) to (3\.\d+)", _README)
    releases = re.search(r"each torch release from (\S+) to (\S+);", _README)
    assert needs is not None
    assert pythons is not None
    assert releases is not None
    assert all(SpecifierSet(needs[1]).contains(f"{one}.0") for one in pythons.groups())
    assert (ops.releases()[0], ops.releases()[-1]) == releases.groups()
