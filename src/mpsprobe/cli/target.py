"""`mpsprobe target`: write files for targets of your own."""

from __future__ import annotations

from pathlib import Path

import click

from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.errors import UsageError


@click.group("target")
def command() -> None:
    """Make a target of your own: a file with a few functions that mpsprobe probes."""


@command.command("new")
@click.argument("model")
@click.option(
    "--config", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="JSON config of a class."
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="target.py",
    show_default=True,
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@pass_sink
def new(sink: Sink, model: str, config: Path | None, output: Path, force: bool) -> None:
    """Write a target.py for MODEL: a repo id, a folder, or a class package.module:Class.

    Loading and a sample are filled in as far as the config, the signature of the forward pass and its documentation
    allow; the rest is marked TODO. The code of a repository is read but not run; a class that you name is imported.
    """
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already.", "Give --force to replace it, or another --output.")
    from mpsprobe.models.skeleton import write

    text = write(model, config)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    left = text.count("TODO") - 1
    todo = f"{left} places are marked TODO. " if left else ""
    sink.result(
        f"{output}: written. {todo}Then: mpsprobe predict {output}", {"path": str(output), "todo": left}
    )
