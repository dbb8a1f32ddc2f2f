"""`mpsprobe report` and `mpsprobe merge`: draw reports from the documents of earlier runs."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from mpsprobe import report
from mpsprobe.cli.sink import Sink, pass_sink, wrapped
from mpsprobe.errors import DataError, UsageError
from mpsprobe.report import matrix
from mpsprobe.run import Run, json_schema

DEFAULT_RUN = Path("reports/latest/run.json")


@click.command("report")
@click.argument("run_path", metavar="[RUN.json]", required=False, type=click.Path(path_type=Path))
@click.option(
    "-f",
    "--format",
    "wanted",
    type=click.Choice(list(report.FILES)),
    help="Print one format instead of writing the folder of reports.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File for --format, else folder for all reports. Default: stdout, else where the run is.",
)
@click.option("--schema", is_flag=True, help="Print the JSON Schema of run.json and exit.")
@pass_sink
def rebuild(
    sink: Sink, run_path: Path | None, wanted: report.Format | None, output: Path | None, schema: bool
) -> None:
    """Rebuild reports from RUN.json, from its folder, or from the journal.jsonl of a killed run.

    Without RUN.json it takes reports/latest/run.json. Without --format it writes run.json, report.md, report.html
    and junit.xml, and prints the verdict.
    """
    if schema:
        sink.result(_pretty(json_schema()), json_schema(), verbatim=True)
        return
    source = _find(run_path or _latest())
    run = _read(source)
    headline = report.verdict(run)
    answer = {
        "verdict": headline.sentence,
        "status": headline.word,
        "evidence": headline.evidence.value if headline.evidence else None,
    }
    if wanted is None:
        files = report.write(run, output or source.parent)
        paths = {name: str(path) for name, path in files.items()}
        sink.result("\n".join([headline.sentence, *paths.values()]), {**answer, "files": paths})
    elif output is None:
        text = report.render(run, wanted)
        sink.result(text.removesuffix("\n"), {**answer, "format": wanted, "text": text}, verbatim=True)
    else:
        path = _save(report.render(run, wanted), output / report.FILES[wanted] if output.is_dir() else output)
        sink.result(str(path), {**answer, "files": {wanted: str(path)}})


def read_run(path: Path) -> Run:
    """Load the run at `path`: a document, a journal, or a folder that holds either.

    Raises:
        UsageError: There is no run at `path`.
        DataError: The run cannot be read.
    """
    return _read(_find(path))


def _latest() -> Path:
    """Return the folder of the newest finished run in reports/, else the default document."""
    from mpsprobe.supervision.supervisor import is_running

    runs = DEFAULT_RUN.parents[1] / "runs"
    for folder in sorted(runs.iterdir(), reverse=True) if runs.is_dir() else ():
        if folder.is_dir() and (folder / "journal.jsonl").is_file() and not is_running(folder):
            return folder
    return DEFAULT_RUN


def _find(path: Path) -> Path:
    """Return the document at `path`: the path itself, or the run or journal in that folder."""
    if not path.is_dir():
        if not path.exists():
            raise UsageError(f"{path}: no such file.", "Name a run.json, or make one: mpsprobe run")
        return path
    document, journal = path / "run.json", path / "journal.jsonl"
    if journal.is_file() and (not document.is_file() or _is_of_another_run(journal, document)):
        return journal
    if document.is_file():
        return document
    raise UsageError(
        f"{path}: neither run.json nor journal.jsonl is in this folder.", "Make one: mpsprobe run"
    )


def _is_of_another_run(journal: Path, document: Path) -> bool:
    """Return whether a journal belongs to a later run than the report next to it, such as one that was killed."""
    from mpsprobe.run.journal import id_of

    found = id_of(journal)
    try:
        return found > Run.load(document).id
    except DataError:
        return bool(found)


def _read(path: Path) -> Run:
    if path.suffix != ".jsonl":
        return Run.load(path)
    from mpsprobe.run.journal import replay

    return replay(path)


def _save(text: str, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    except OSError as problem:
        raise UsageError(f"{path}: cannot be written: {problem.strerror}.") from problem
    return path


def _pretty(data: object) -> str:
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


@click.command("merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for matrix.json, matrix.md and matrix.html.",
)
@pass_sink
def merge(sink: Sink, runs: tuple[Path, ...], output: Path | None) -> None:
    """Merge RUN... (run.json files, journals or their folders) into a matrix of targets and machines.

    Among several runs of one target on one machine, the newest counts. Exit codes: 0 merged, 2 usage,
    4 mpsprobe failed.
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
    lines = (wrapped(line) if line.startswith("- ") else line for line in text.split("\n"))
    sink.result("\n".join(lines), merged, verbatim=True)
