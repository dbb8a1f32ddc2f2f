"""Render a run in each format, as text or as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.quantities import printable, printable_json
from mpsprobe.report.exports import badge, junit, shields, workflow_commands
from mpsprobe.report.templating import fill
from mpsprobe.report.view import page
from mpsprobe.run import Run

Format = Literal["md", "html", "json", "junit", "summary", "badge", "shields", "annotations"]

#: The name of each report in a folder of reports.
FILES: dict[Format, str] = {
    "json": "run.json",
    "md": "report.md",
    "html": "report.html",
    "junit": "junit.xml",
    "summary": "summary.md",
    "badge": "badge.svg",
    "shields": "badge.json",
    "annotations": "annotations.txt",
}

#: GitHub drops the whole summary of a step that is larger than 1 MiB.
SUMMARY_LIMIT = 1024 * 1024

#: The formats that `write` writes by default.
DEFAULT: tuple[Format, ...] = ("json", "md", "html", "junit")


def _json(run: Run) -> str:
    return msgspec.json.format(msgspec.json.encode(run), indent=2).decode() + "\n"


_RENDERERS: dict[Format, Callable[[Run], str]] = {
    "md": lambda run: fill("report.md.j2", page=page(run)),
    "html": lambda run: fill("report.html.j2", page=page(run)),
    "json": _json,
    "junit": junit,
    "summary": lambda run: fill("summary.md.j2", page=page(run)),
    "badge": badge,
    "shields": shields,
    "annotations": lambda run: f"{workflow_commands(run)}\n",
}


def render(run: Run, format: Format) -> str:
    """Return the run in one format, as text that ends in a newline."""
    text = _RENDERERS[format](run)
    # Texts of a target may hold anything; characters that steer a terminal or hide text are never written raw.
    return printable_json(text) if format in ("json", "shields") else printable(text)


def append_summary(run: Run, environment: Mapping[str, str] | None = None) -> Path | None:
    """Append the run's summary to the file that GITHUB_STEP_SUMMARY names.

    Args:
        run: The run.
        environment: The environment in which to look the variable up; None for this process's own.

    Returns:
        The file, or None when the variable is not set, the file has no room left or cannot be written. A summary is
        optional and never changes how a run ends.
    """
    name = (os.environ if environment is None else environment).get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    path, text = Path(name), render(run, "summary").encode()
    try:
        present = path.stat().st_size if path.exists() else 0
        if present + len(text) > SUMMARY_LIMIT:
            return None
        with path.open("ab") as file:
            file.write(text)
    except OSError:
        return None
    return path


def write(run: Run, folder: Path, formats: Iterable[Format] = DEFAULT) -> dict[str, Path]:
    """Write reports into `folder`, which is created if needed.

    Returns:
        The path of each report by its format.

    Raises:
        UsageError: The folder or a file in it cannot be written.
    """
    written: dict[str, Path] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in formats:
            path = folder / FILES[each]
            # the former report stays readable until this one is complete
            fresh = folder / f".{FILES[each]}.new"
            fresh.write_bytes(render(run, each).encode())
            fresh.replace(path)
            written[each] = path
    except OSError as problem:
        raise UsageError(f"{problem.filename or folder}: cannot be written: {problem.strerror}.") from problem
    return written
