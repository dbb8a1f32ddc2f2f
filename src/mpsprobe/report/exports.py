"""Render a run in each format, as text or as files: pages, JSON, JUnit XML, GitHub Actions annotations and badges."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from mpsprobe.errors import UsageError
from mpsprobe.quantities import printable, printable_json
from mpsprobe.report import wording
from mpsprobe.report.headline import Headline, all_checks, verdict
from mpsprobe.report.templating import clean, fill
from mpsprobe.report.view import page
from mpsprobe.run import Check, Phase, Run, Status

#: Levels of annotations: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
_LEVELS = {
    Status.FAIL: "error",
    Status.CRASHED: "error",
    Status.TIMEOUT: "error",
    Status.ERROR: "error",
    Status.WARN: "warning",
}


def workflow_commands(run: Run) -> str:
    """Return one GitHub Actions workflow command a line: each failure and warning, and a notice with the verdict."""
    headline = verdict(run)
    lines = [_command("notice", "mpsprobe", headline.sentence)]
    lines += [_annotation(check) for check in all_checks(run) if check.status in _LEVELS]
    return "\n".join(lines)


def _annotation(check: Check) -> str:
    said = " ".join(part for part in (check.message, check.remedy) if part) or check.title
    return _command(_LEVELS[check.status], f"{check.phase.label}: {check.id}", said)


def _command(level: str, title: str, message: str) -> str:
    escaped = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    escaped = escaped.replace(":", "%3A").replace(",", "%2C")
    text = clean(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title={clean(escaped)}::{text}"


#: Backgrounds on which white text has a contrast of at least 4.5 : 1.
_COLOURS: dict[Status, str] = {
    Status.PASS: "#1a7f4b",
    Status.WARN: "#8a5a00",
    Status.FAIL: "#b3261e",
    Status.CRASHED: "#b3261e",
    Status.TIMEOUT: "#b3261e",
    Status.ERROR: "#7a3e9d",
}
_NEUTRAL = "#57606a"
_LABEL = "mpsprobe"

#: Widths in px of characters of Verdana at 11 px, on average; `textLength` makes the text fit exactly.
_CHARACTER = 6.6
_PADDING = 14


@dataclass(frozen=True)
class Badge:
    """The texts and the geometry, in px, that the template of the badge prints."""

    label: str
    message: str
    colour: str
    width: int
    label_width: int
    message_width: int
    label_middle: float
    message_middle: float
    label_length: int
    message_length: int


def shields(run: Run) -> str:
    """Return the badge as an endpoint document of shields.io (https://shields.io/badges/endpoint-badge)."""
    headline = verdict(run)
    document = {
        "schemaVersion": 1,
        "label": _LABEL,
        "message": _message(headline),
        "color": _COLOURS.get(headline.status, _NEUTRAL),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _message(headline: Headline) -> str:
    return f"{headline.word} · {clean(headline.standing)}"


def badge(run: Run) -> str:
    """Return the run's verdict as an SVG image for a README."""
    headline = verdict(run)
    label, message = _LABEL, _message(headline)
    label_length, message_length = round(len(label) * _CHARACTER), round(len(message) * _CHARACTER)
    left, right = label_length + _PADDING, message_length + _PADDING
    return fill(
        "badge.svg.j2",
        badge=Badge(
            label=label,
            message=message,
            colour=_COLOURS.get(headline.status, _NEUTRAL),
            width=left + right,
            label_width=left,
            message_width=right,
            label_middle=left / 2,
            message_middle=left + right / 2,
            label_length=label_length,
            message_length=message_length,
        ),
    )


#: The JUnit element of each status; a pass and a warning have none.
_OUTCOMES: dict[Status, str] = {
    Status.FAIL: "failure",
    Status.CRASHED: "error",
    Status.TIMEOUT: "error",
    Status.ERROR: "error",
    Status.BLOCKED: "skipped",
    Status.SKIPPED: "skipped",
    Status.UNKNOWN: "skipped",
}


def junit(run: Run) -> str:
    """Return the run as JUnit XML: one test suite per stage, one test case per check.

    The document is valid against the schema that Jenkins' xunit plugin checks (its junit-10.xsd). That schema
    allows properties of a suite but not of a case, so a case's evidence and measurements become properties of its
    suite, under names that begin with the case's name.
    """
    checks = all_checks(run)
    totals = _totals(checks)
    del totals["skipped"]  # the schema allows this attribute on a suite only
    root = ET.Element("testsuites", {"name": "mpsprobe", **totals})
    for phase in Phase:
        if within := [check for check in checks if check.phase is phase]:
            root.append(_suite(run, phase, within))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(run: Run, phase: Phase, checks: list[Check]) -> ET.Element:
    suite = ET.Element(
        "testsuite",
        {
            "name": f"mpsprobe.{phase.marker}",
            "timestamp": clean(run.started).removesuffix("Z"),  # the schema's time has no zone; ours is UTC
            "hostname": clean(f"{run.host.system} {run.host.machine}".strip()),
            **_totals(checks),
        },
    )
    headline = verdict(run)
    _properties(
        suite,
        [
            ("target", run.target.name),
            ("device", run.device.used),
            ("evidence", headline.standing),
            ("verdict", headline.sentence),
            ("virtual_gpu", str(run.host.virtual_gpu).lower()),
            ("run", run.id),
            *(
                [("interrupted_by", run.interruption.signal or run.interruption.cause)]
                if run.interruption
                else []
            ),
            *(pair for check in checks for pair in _facts(check)),
        ],
    )
    for check in checks:
        suite.append(_case(phase, check))
    return suite


def _facts(check: Check) -> list[tuple[str, str]]:
    """Return evidence, blocking phase and measurements of one check as pairs of a property's name and value."""
    evidence = f"{check.evidence.value}, {check.device}" if check.evidence else "none"
    return [
        (f"{check.id}: evidence", evidence),
        *([(f"{check.id}: blocked by", check.blocked_by.label)] if check.blocked_by else []),
        *(
            (f"{check.id}: {each.name}", f"{wording.value(each).text} ({each.evidence.value}, {each.device})")
            for each in check.measurements
        ),
    ]


def _case(phase: Phase, check: Check) -> ET.Element:
    case = ET.Element(
        "testcase",
        {"classname": f"mpsprobe.{phase.marker}", "name": clean(check.id), "time": _time(check.duration_s)},
    )
    if outcome := _OUTCOMES.get(check.status):
        element = ET.SubElement(
            case, outcome, {"type": check.status.value, "message": clean(check.message or check.title)}
        )
        element.text = _lines(check.message, check.remedy, check.output)
    evidence = f"evidence: {check.evidence.value}, device: {check.device}" if check.evidence else ""
    found = check.message if not outcome else ""
    remedy = check.remedy if not outcome else ""
    ET.SubElement(case, "system-out").text = _lines(check.title, found, remedy, evidence)
    return case


def _lines(*parts: str) -> str:
    return clean("\n".join(part for part in parts if part))


def _totals(checks: list[Check]) -> dict[str, str]:
    outcomes = [_OUTCOMES.get(check.status) for check in checks]
    return {
        "tests": str(len(checks)),
        "failures": str(outcomes.count("failure")),
        "errors": str(outcomes.count("error")),
        "skipped": str(outcomes.count("skipped")),
        "time": _time(sum(check.duration_s for check in checks)),
    }


def _properties(parent: ET.Element, pairs: Iterable[tuple[str, str]]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in pairs:
        ET.SubElement(properties, "property", name=clean(name), value=clean(value))


def _time(duration: float) -> str:
    return f"{duration:.3f}"


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
    """Write reports into `folder`, which is created if needed; each file is replaced only when it is complete.

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
