"""The only module that prints: for readers, for programs (`--json`) or not at all (`--quiet`).

Texts of targets and documents may hold anything, so every control character is shown as its escape, and colours are
given apart from the text. A reader that has gone (`| head -1`, a closed stdout) does not stop the command: it goes
on, and its report is written.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import msgspec

from mpsprobe.quantities import printable, printable_json

#: The greatest width of a text for readers in columns, unless COLUMNS sets another.
_WIDTH = 80
#: A line with two or more gaps between its words is a row of a table, which is never wrapped.
_GAP = re.compile(r"\S {2,}\S")
#: A line for a shell, which would not be one command any more.
_SHELL = re.compile(r" +[$#] ")
#: The part of a line that later lines are aligned after: its indentation, and a short label before a gap.
_LABEL = re.compile(r"( *)(- |\S[^ ]{0,11}(?: \S{1,6})?:? {2,}(?=\S)|[^ :]{1,14}: +)?")
#: With a last column narrower than this, rows become blocks instead of being wrapped.
_LEAST_COLUMN = 24

COLOURS = ("auto", "always", "never")


class Styled(NamedTuple):
    """A part of a remark with its colour."""

    text: str
    colour: str | None = None
    bold: bool = False
    dim: bool = False


def width() -> int:
    """Return the number of columns for text: those of the terminal up to 80, or the value of COLUMNS."""
    columns = shutil.get_terminal_size((_WIDTH, 24)).columns
    return columns if os.environ.get("COLUMNS", "").isdigit() else min(columns, _WIDTH)


def wrapped(text: str, columns: int | None = None) -> str:
    """Wrap the prose of a text. Rows of tables, lines for a shell, addresses and longer words stay whole.

    Args:
        text: Any number of lines. Continuation lines are aligned with the first word after a line's label.
        columns: The greatest width of a line; None for that of the terminal.
    """
    columns = columns or width()
    return "\n".join(_wrapped_line(line, columns) for line in text.split("\n"))


def _wrapped_line(line: str, columns: int) -> str:
    if len(line) <= columns or len(_GAP.findall(line.strip())) > 1 or _SHELL.match(line):
        return line
    label = _LABEL.match(line)
    hang = len(label[0]) if label is not None else 0
    return textwrap.fill(
        line,
        columns,
        subsequent_indent=" " * min(hang, columns // 3),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def uses_colour(choice: str = "auto") -> bool | None:
    """Return whether to use colour: True, False, or None where the stream decides (a terminal is coloured).

    NO_COLOR (https://no-color.org) applies unless `choice` is "always".
    """
    if choice == "auto":
        return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None
    return choice == "always"


def say(*parts: str | Styled, err: bool = False, as_json: bool = False, colour: bool | None = None) -> None:
    """Print one text, with control characters replaced by escapes.

    Args:
        parts: The parts of the text, printed one after the other.
        err: Whether to print on stderr.
        as_json: Whether it is a JSON text, in which control characters have JSON's own escapes.
        colour: Whether styles are printed; None for only on a terminal.
    """
    clean = printable_json if as_json else printable
    text = "".join(
        clean(part)
        if isinstance(part, str)
        else click.style(clean(part.text), fg=part.colour, bold=part.bold or None, dim=part.dim or None)
        for part in parts
    )
    try:
        click.echo(text, err=err, color=uses_colour() if colour is None else colour)
    except (OSError, ValueError):  # the reader has gone, or the stream was closed
        _forget(sys.stderr if err else sys.stdout)


def _forget(stream: Any) -> None:
    """Discard everything else that is written to a stream, including what Python writes at its exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Sink:
    """Where a command writes its answer and its remarks, and in which form.

    Attributes:
        as_json: Whether results are JSON on stdout and remarks go to stderr.
        quiet: Whether results and remarks are dropped; errors still appear.
        verbose: Whether results for readers include every detail.
        colour: `"auto"`, `"always"` or `"never"`.
        ends_process: Whether the process ends with the command; False where a caller in this process continues.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        colour: str = "auto",
        ends_process: bool = False,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self.colour = colour
        self.ends_process = ends_process

    def remark(self, *parts: str | Styled) -> None:
        """Print progress or an aside for readers, never on stdout when that carries JSON."""
        if not self.quiet:
            say(*parts, err=self.as_json, colour=uses_colour(self.colour))

    def result(self, text: str, data: Any, *, verbatim: bool = False) -> None:
        """Print the command's answer.

        Args:
            text: The answer for readers; its prose is wrapped.
            data: The answer for programs: anything that msgspec encodes.
            verbatim: Whether to print `text` unchanged, as for a document.
        """
        if self.quiet:
            return
        if self.as_json:
            say(msgspec.json.encode(data).decode(), as_json=True)
        else:
            clean = printable(text)
            say(clean if verbatim else wrapped(clean), colour=uses_colour(self.colour))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], data: Any) -> None:
        """Print the answer as aligned columns for readers, or as `data` for programs.

        A table that is too wide has its last column wrapped, or becomes blocks with one line for each column.
        """
        cells = [[printable(str(cell)) for cell in row] for row in rows]
        self.result(aligned(columns, cells, width()), data, verbatim=True)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> str:
    """Return a table of at most `most` columns of text, by wrapping the last column or stacking the cells."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lead = sum(widths[:-1]) + 2 * (len(columns) - 1)
    if lead + widths[-1] > most and most - lead < _LEAST_COLUMN:
        return "\n\n".join(_block(columns, row, most) for row in rows)
    lines = []
    for row in (columns, *rows):
        last = textwrap.wrap(row[-1], max(most - lead, _LEAST_COLUMN), break_long_words=False) or [""]
        first = "".join(f"{cell:<{size}}  " for cell, size in zip(row[:-1], widths, strict=False))
        lines += [f"{first if k == 0 else ' ' * lead}{part}".rstrip() for k, part in enumerate(last)]
    return "\n".join(lines)


def _block(columns: Sequence[str], row: Sequence[str], most: int) -> str:
    """Return one row as lines: its first cell, then the others with the names of their columns."""
    names = max(len(name) for name in columns[1:]) + 2
    named = [
        f"  {f'{name}:':<{names}}{cell}" for name, cell in zip(columns[1:], row[1:], strict=True) if cell
    ]
    return "\n".join(
        textwrap.fill(line, most, subsequent_indent=" " * (names + 2), break_long_words=False)
        if len(line) > most
        else line
        for line in (row[0], *named)
    )


_pass = click.make_pass_decorator(Sink)


def pass_sink(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a command with the sink, and let it take the program's options too (`mpsprobe ops X --json`).

    It must be the last decorator of a command, so that these options end its help.
    """
    passing = _pass(function)
    passing.__click_params__ = list(reversed(_common()))  # type: ignore[attr-defined]  # as click.option keeps them
    return passing


def _common() -> list[click.Option]:
    """Return copies of the global options, such as `--json`, that a command takes too."""

    def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        sink = ctx.find_object(Sink)
        if value and sink is not None:
            setattr(sink, str(param.name), value)

    def flag(*names: str, help_: str) -> click.Option:
        return click.Option(list(names), is_flag=True, expose_value=False, callback=take, help=help_)

    return [
        flag("--json", "as_json", help_="Machine-readable output on stdout."),
        flag("-q", "--quiet", "quiet", help_="Print errors only, on stderr."),
        flag("-v", "--verbose", "verbose", help_="Print every detail."),
        click.Option(
            ["--color", "colour"],
            type=click.Choice(COLOURS),
            expose_value=False,
            callback=take,
            help="Whether to colour.  [default: auto, which obeys NO_COLOR]",
        ),
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, hidden=True, help="Show tracebacks of errors."
        ),
    ]
