"""The one place that prints: people, machines (`--json`) or nobody (`--quiet`). Commands never print.

Texts of targets and documents may hold anything: every control character is shown as its escape here, and colours are
given apart from the text. A reader that has gone (`| head -1`, a closed stdout) costs what it would have read, and
nothing else: the command goes on and its report is written.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click
import msgspec

from mpsprobe.quantities import printable, printable_json


class Styled(NamedTuple):
    """A part of a remark with its colour."""

    text: str
    colour: str | None = None
    bold: bool = False
    dim: bool = False


def say(*parts: str | Styled, err: bool = False, as_json: bool = False) -> None:
    """Print one text without control characters of its own.

    Args:
        parts: printed one after the other.
        err: to stderr.
        as_json: it is a JSON text, in which a control character has an escape.
    """
    clean = printable_json if as_json else printable
    text = "".join(
        clean(part)
        if isinstance(part, str)
        else click.style(clean(part.text), fg=part.colour, bold=part.bold or None, dim=part.dim or None)
        for part in parts
    )
    try:
        click.echo(text, err=err)
    except (OSError, ValueError):  # the reader has gone, or the stream was closed
        _forget(sys.stderr if err else sys.stdout)


def _forget(stream: Any) -> None:
    """Let whatever else is written to a stream go nowhere, also what Python writes at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Sink:
    """Where a command's output goes.

    Attributes:
        as_json: results as JSON on stdout, remarks on stderr.
        quiet: results and remarks are dropped; errors still appear.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def remark(self, *parts: str | Styled) -> None:
        """Print progress or an aside for people: never on stdout when that carries JSON."""
        if not self.quiet:
            say(*parts, err=self.as_json)

    def result(self, text: str, data: Any) -> None:
        """Print the command's answer: `text` for people, `data` (anything msgspec encodes) for machines."""
        if self.quiet:
            return
        if self.as_json:
            say(msgspec.json.encode(data).decode(), as_json=True)
        else:
            say(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], data: Any) -> None:
        """Print the answer as aligned columns for people, `data` for machines."""
        cells = [[printable(str(cell)) for cell in row] for row in (columns, *rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        self.result("\n".join(lines), data)


pass_sink = click.make_pass_decorator(Sink)


def json_flag(command: Any) -> Any:
    """Add `--json` behind the command too (`mpsprobe ops X --json`), where users expect it."""

    def turn_on(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        sink = ctx.find_object(Sink)
        if value and sink is not None:
            sink.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=turn_on, help="Machine-readable output."
    )(command)
