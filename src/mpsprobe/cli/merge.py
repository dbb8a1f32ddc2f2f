"""`mpsprobe merge`: many runs as one matrix."""

from __future__ import annotations

from pathlib import Path

import click

from mpsprobe.cli.report import read_run
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.report import matrix


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for matrix.json, matrix.md and matrix.html.",
)
@json_flag
@pass_sink
def command(sink: Sink, runs: tuple[Path, ...], output: Path | None) -> None:
    """Merge RUN... (run.json files, journals or their folders) into a matrix of targets and machines.

    Of several runs of one target on one machine, the newest counts. Exit codes: 0 merged, 2 usage.
    """
    merged = matrix.merge(read_run(path) for path in runs)
    text = matrix.markdown(merged)
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for name, content in (("matrix.md", text), ("matrix.html", matrix.html(merged))):
                (output / name).write_text(content, encoding="utf-8")
            (output / "matrix.json").write_bytes(matrix.document(merged))
        except OSError as problem:
            raise UsageError(
                f"{problem.filename or output}: cannot be written: {problem.strerror}."
            ) from problem
        text = f"{text}\nmatrix: {output / 'matrix.html'}"
    sink.result(text, merged)
