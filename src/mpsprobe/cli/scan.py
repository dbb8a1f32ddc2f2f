"""`mpsprobe scan`: find what breaks or silently misbehaves on MPS in source code, without running it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import click
import msgspec

from mpsprobe.cli.sink import Sink, pass_sink, say
from mpsprobe.errors import TargetError, UsageError
from mpsprobe.knowledge import ops
from mpsprobe.scan import Level, Options, Report, all_rules, formats, scan, sources

_FORMATS = ("text", "json", "sarif", "github")


@click.command("scan")
@click.argument("target", required=False, metavar="PATH|PACKAGE|MODEL")
@click.option(
    "--select", multiple=True, metavar="RULES", help="Only these: MPS101, MPS3, float64; repeatable."
)
@click.option("--ignore", multiple=True, metavar="RULES", help="Not these.")
@click.option(
    "--fail-on",
    type=click.Choice([*(severity.value for severity in Level), "never"]),
    default="warning",
    show_default=True,
    help="Exit with 1 for findings of this severity or worse.",
)
@click.option(
    "--torch",
    metavar="VERSION",
    help="Release whose missing ops and advisories count (default: the installed).",
)
@click.option("--format", "form", type=click.Choice(_FORMATS), help="How to write the report.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report to this file."
)
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave out files below the target; repeatable."
)
@click.option("--tests", is_flag=True, help="Look at test files too.")
@click.option("--revision", metavar="REV", help="Commit, tag or branch of a repository in the hub's cache.")
@click.option("--brief", is_flag=True, help="Findings only, without what their rules mean.")
@click.option("--rules", "list_rules", is_flag=True, help="List the rules and exit.")
@pass_sink
def command(
    sink: Sink,
    target: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: str,
    torch: str | None,
    form: str | None,
    output: Path | None,
    exclude: tuple[str, ...],
    tests: bool,
    revision: str | None,
    brief: bool,
    list_rules: bool,
) -> None:
    """Find what breaks, or silently misbehaves, on MPS in source code, without running it.

    Reads a file or folder, an installed package by its dotted name, a model folder with its own code, or a
    repository in the hub's cache (never the hub itself). Exit codes: 0 nothing found, 1 findings, 2 usage,
    4 mpsprobe failed.
    """
    if list_rules:
        _list_rules(sink)
        return
    if not target:
        raise UsageError("Nothing to scan.", "Name a path, a package or a model: mpsprobe scan ./my_model")
    options = Options(torch=torch or _installed_torch(), select=select, ignore=ignore)
    ops.resolve_release(options.torch)  # reports an unknown release before anything is read
    try:
        chosen = _find(target, tests=tests, exclude=exclude, revision=revision)
    except TargetError as problem:  # a command that only reads has no target but what the user typed
        raise UsageError(problem.what, problem.hint) from problem
    for remark in chosen.remarks:
        say(remark, err=True)
    report = scan(chosen, options)
    form = form or ("json" if sink.as_json else "text")
    _write(sink, report, form, output, brief=brief)
    if fail_on != "never" and report.worst(Level(fail_on)):
        raise click.exceptions.Exit(1)


def _find(target: str, *, tests: bool, exclude: tuple[str, ...], revision: str | None) -> sources.Sources:
    """Resolve a target: a path where one exists, else a cached repository, else a package."""
    path = Path(target)
    if path.exists() and revision is None:
        if path.is_dir() and sources.is_model_folder(path):
            return sources.of_model(path, target, tests=tests, exclude=exclude)
        return sources.of_path(path, tests=tests, exclude=exclude)
    if "/" in target or revision is not None:
        if target.count("/") > 1 or target.startswith((".", "/", "~")):
            raise TargetError(f"{target}: no such file or folder.")
        from mpsprobe.models.hub.client import cached_snapshot

        folder = cached_snapshot(target, revision)
        return sources.of_model(folder, target, tests=tests, exclude=exclude)
    return sources.of_package(target, tests=tests, exclude=exclude)


def _installed_torch() -> str:
    """Return the installed torch release when there is data on it, else the newest one."""
    try:
        return ops.resolve_release(metadata.version("torch"))
    except (metadata.PackageNotFoundError, ops.UnknownReleaseError):
        return ops.releases()[-1]


def _write(sink: Sink, report: Report, form: str, output: Path | None, *, brief: bool) -> None:
    if form == "text":
        written = formats.text(report, explain=not brief)
    elif form == "github":
        written = formats.github(report)
    else:
        data = formats.sarif(report) if form == "sarif" else report
        written = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    if output is None:
        if written and not sink.quiet:
            say(written, as_json=form in ("json", "sarif"))
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(written + "\n", encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{output}: cannot be written: {problem.strerror}.") from problem
    say(formats.summary(report), err=True)


def _list_rules(sink: Sink) -> None:
    rows = [[rule.code, rule.severity.value, rule.name, rule.title] for rule in all_rules().values()]
    sink.table(["code", "severity", "name", "what"], rows, list(all_rules().values()))
