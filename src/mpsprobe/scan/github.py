"""Findings as GitHub's workflow commands, which show them in the pull request's changed lines.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from mpsprobe.scan.finding import Finding, Report, Severity

_LEVEL = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def commands(report: Report) -> str:
    """One command a line, for findings and for files that could not be read."""
    found = [_of(finding) for finding in report.findings]
    unread = [
        _command("warning", {"file": problem.path, "line": str(problem.line or 1)}, problem.reason)
        for problem in report.unreadable
    ]
    return "\n".join([*found, *unread])


def _of(finding: Finding) -> str:
    properties = {
        "file": finding.path,
        "line": str(finding.line),
        "endLine": str(finding.end_line),
        "title": f"{finding.code} {finding.rule}",
    }
    if finding.line == finding.end_line:  # GitHub takes columns within one line only
        properties["col"] = str(finding.column)
        properties["endColumn"] = str(finding.end_column)
    return _command(_LEVEL[finding.severity], properties, f"{finding.message} {finding.mend}")


def _command(level: str, properties: dict[str, str], message: str) -> str:
    told = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {told}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
