"""The one place that prints: people, machines (`--json`) or nobody (`--quiet`). Commands never print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec


class Sink:
    """Where a command's output goes.

    Attributes:
        as_json: results as JSON on stdout, remarks on stderr.
        quiet: results and remarks are dropped; errors still appear.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def remark(self, text: str) -> None:
        """Progress or an aside for people: never on stdout when that carries JSON."""
        if not self.quiet:
            click.echo(text, err=self.as_json)

    def result(self, text: str, data: Any) -> None:
        """The command's answer: `text` for people, `data` (anything msgspec encodes) for machines."""
        if self.quiet:
            return
        click.echo(msgspec.json.encode(data).decode() if self.as_json else text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], data: Any) -> None:
        """The answer as aligned columns for people, `data` for machines."""
        cells = [[str(cell) for cell in row] for row in (columns, *rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        self.result("\n".join(lines), data)


pass_sink = click.make_pass_decorator(Sink)


def json_flag(command: Any) -> Any:
    """`--json` behind the command too (`mpsprobe ops X --json`), where users expect it."""

    def turn_on(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        sink = ctx.find_object(Sink)
        if value and sink is not None:
            sink.as_json = True

    return click.option(
        "--json", is_flag=True, expose_value=False, callback=turn_on, help="Machine-readable output."
    )(command)
