"""docs/scan.md: every rule has an example that it finds, and a fixed one in which it finds nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from mpsprobe.scan import Options, all_rules
from mpsprobe.scan.scanner import scan_text

TEXT = (Path(__file__).parents[2] / "docs" / "scan.md").read_text(encoding="utf-8")


class Example(NamedTuple):
    code: str
    name: str
    severity: str
    torch: str
    bad: str
    fixed: str


def documented() -> list[Example]:
    found = []
    for part in re.split(r"^#### ", TEXT, flags=re.M)[1:]:
        heading = re.match(r"(MPS\d{3}) ([\w-]+) \((\w+)\)", part)
        assert heading, part[:80]
        bad, fixed = re.findall(r"```python\n(.*?)```", part, flags=re.S)
        torch = re.search(r"--torch (\d+\.\d+)", part.partition("```")[0])
        release = torch[1] if torch else "2.13"
        found.append(Example(heading[1], heading[2], heading[3], release, bad, fixed))
    return found


@pytest.mark.parametrize("example", documented(), ids=lambda example: example.code)
def test_the_example_is_found_and_the_fixed_one_is_not(example: Example) -> None:
    options = Options(torch=example.torch)
    found = [finding for finding in scan_text(example.bad, options) if finding.code == example.code]
    assert found
    assert found[0].severity.value == example.severity
    assert example.code not in {finding.code for finding in scan_text(example.fixed, options)}


def test_the_document_and_the_rules_are_the_same_list() -> None:
    assert [(e.code, e.name, e.severity) for e in documented()] == [
        (rule.code, rule.name, rule.severity.value) for rule in all_rules().values()
    ]
    for rule in all_rules().values():
        assert rule.why in TEXT
        assert rule.fix in TEXT
