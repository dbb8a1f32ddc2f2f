"""Every `mpsprobe` command line in the documents is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mpsprobe.cli import cli

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield (page, line) of every command in a fenced block that begins with `mpsprobe`."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"\s*mpsprobe [a-z]", line) and "[-" not in line:  # not a synopsis
                    yield page.name, line.strip()


LINES = sorted(set(command_lines()))


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}:{line[:50]}" for page, line in LINES])
def test_a_documented_command_is_accepted(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A page names files that its reader has: only names and options are checked here.
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: value)
    words = shlex.split(line, comments=True)[1:]
    if len(words) > 1 and words[-2] in (">", "|"):
        words = words[:-2]
    with click.Context(cli, info_name="mpsprobe") as context:
        name, command, rest = cli.resolve_command(context, words)
        assert command is not None, page
        command.make_context(name, list(rest), parent=context)
