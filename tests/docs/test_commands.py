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


def documented_codes() -> dict[str, set[str]]:
    """Return the exit codes of each command by the table of docs/cli.md; `130` stands below it."""
    text = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")
    header = re.search(r"^\| command \|(.*)\|$", text, re.M)
    assert header is not None
    columns = [column.strip() for column in header[1].split("|")]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", text[header.end() :], re.M)
    return {
        name: {column for column, cell in zip(columns, cells.split("|"), strict=True) if cell.strip()}
        for name, cells in rows
    }


@pytest.mark.parametrize("name", sorted(documented_codes()))
def test_help_states_the_documented_exit_codes(name: str) -> None:
    with click.Context(cli, info_name="mpsprobe") as context:
        _name, command, _rest = cli.resolve_command(context, [name])
    assert command is not None
    help_text = " ".join((command.help or "").split())
    stated = set(re.findall(r"(?:^|[:,;] )(\d+) [a-zA-Z]", help_text.partition("Exit codes")[2])) - {"130"}
    assert stated == documented_codes()[name]
