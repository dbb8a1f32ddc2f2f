"""Format a report as text for readers, as GitHub's workflow commands and as SARIF 2.1.0.

- Text shows each finding with its source line, and below them each rule once with its reason and its fix.
- GitHub shows workflow commands in the changed lines of a pull request:
  https://docs.github.com/actions/reference/workflow-commands-for-github-actions
- GitHub code scanning and editors read SARIF:
  https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mpsprobe.scan.findings import Level, Report, ScanRule, SourceHazard, Unreadable, all_rules

_WIDTH = 100


def text(report: Report, *, explain: bool = True) -> str:
    """Return the report as text for readers: findings, unreadable files, rules and a summary.

    Args:
        report: The results of a scan.
        explain: Whether to add the meaning and the fix of each rule below the findings.
    """
    parts = [_finding(finding) for finding in report.findings]
    parts += [f"{_at(problem.path, problem.line)}: {problem.reason}" for problem in report.unreadable]
    if explain and report.findings:
        parts.append("")
        parts += [text for code in report.by_rule() for text in _explained(code, report)]
    parts.append(summary(report))
    return "\n".join(parts)


def summary(report: Report) -> str:
    """Return one line that states how much was read and found."""
    counts = dict.fromkeys(Level, 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    found = ", ".join(_count(number, severity.value) for severity, number in counts.items() if number)
    extra = [
        _count(len(report.unreadable), "file") + " not read" if report.unreadable else "",
        f"{report.suppressed} silenced by noqa" if report.suppressed else "",
        _count(report.tests_left_out, "test file") + " left out" if report.tests_left_out else "",
    ]
    rest = "".join(f"; {text}" for text in extra if text)
    read = f"{_count(report.files, 'file')}, {_count(report.lines, 'line')}"
    return f"{found or 'Nothing found'} in {read} (torch {report.torch}){rest}."


def _finding(finding: SourceHazard) -> str:
    where = f"{finding.path}:{finding.line}:{finding.column}"
    return f"{where}: {finding.severity.value} {finding.code} {finding.message}\n    {finding.text[:_WIDTH]}"


def _explained(code: str, report: Report) -> list[str]:
    """Return the lines on a rule: each reason and fix that its findings give, which may differ from the rule's own."""
    rule = all_rules()[code]
    of_it = [finding for finding in report.findings if finding.code == code]
    reasons = dict.fromkeys((finding.why, finding.fix) for finding in of_it)
    text = [f"{code} {rule.name} ({_count(len(of_it), 'finding')}): {rule.title}"]
    for why, fix in reasons:
        text += _wrapped("why:  ", why)
        text += _wrapped("fix:  ", fix)
    return [*text, ""]


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=f"    {label}",
        subsequent_indent=" " * (4 + len(label)),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _at(path: str, line: int | None) -> str:
    return path if line is None else f"{path}:{line}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_LEVEL = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}


def github(report: Report) -> str:
    """Return a GitHub workflow command for each finding and each file that could not be read, one a line."""
    found = [_of(finding) for finding in report.findings]
    unread = [
        _command("warning", {"file": problem.path, "line": str(problem.line or 1)}, problem.reason)
        for problem in report.unreadable
    ]
    return "\n".join([*found, *unread])


def _of(finding: SourceHazard) -> str:
    properties = {
        "file": finding.path,
        "line": str(finding.line),
        "endLine": str(finding.end_line),
        "title": f"{finding.code} {finding.rule}",
    }
    if finding.line == finding.end_line:  # GitHub accepts columns only within one line
        properties["col"] = str(finding.column)
        properties["endColumn"] = str(finding.end_column)
    return _command(_LEVEL[finding.severity], properties, f"{finding.message} {finding.fix}")


def _command(level: str, properties: dict[str, str], message: str) -> str:
    written = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {written}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(report: Report) -> dict[str, Any]:
    """Return the report as a SARIF log of one run, ready for a JSON encoder."""
    used = [all_rules()[code] for code in report.by_rule()]
    index = {rule.code: position for position, rule in enumerate(used)}
    twins: Counter[str] = Counter()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "mpsprobe",
                        "semanticVersion": report.mpsprobe,
                        "rules": [_rule(rule) for rule in used],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [_notification(one) for one in report.unreadable],
                    }
                ],
                "properties": {"target": report.target, "torch": report.torch},
                "results": [_result(finding, index, twins) for finding in report.findings],
            }
        ],
    }


def _rule(rule: ScanRule) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} {rule.fix}"},
        "defaultConfiguration": {"level": rule.severity.value},
    }
    if rule.links:
        described["helpUri"] = rule.links[0]
    return described


def _result(finding: SourceHazard, index: dict[str, int], twins: Counter[str]) -> dict[str, Any]:
    # The same finding on other lines keeps its identity, so that a dismissed alert stays dismissed.
    identity = hashlib.sha256(f"{finding.code}\0{finding.path}\0{finding.text}".encode()).hexdigest()[:32]
    twins[identity] += 1
    return {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": finding.severity.value,
        "message": {"text": f"{finding.message} {finding.fix}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(finding.path)},
                    "region": {
                        "startLine": finding.line,
                        "startColumn": finding.column,
                        "endLine": finding.end_line,
                        "endColumn": finding.end_column,
                        "snippet": {"text": finding.text},
                    },
                }
            }
        ],
        "partialFingerprints": {"mpsprobe/v1": f"{identity}:{twins[identity]}"},
        "properties": {"why": finding.why, "links": list(finding.links)},
    }


def _notification(problem: Unreadable) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(problem.path)}}
    if problem.line is not None:
        place["region"] = {"startLine": problem.line}
    return {
        "level": "warning",
        "message": {"text": problem.reason},
        "locations": [{"physicalLocation": place}],
    }


def _uri(path: str) -> str:
    """Return a URI reference: relative to the repository's root, or absolute for a file outside it."""
    return Path(path).as_uri() if Path(path).is_absolute() else quote(path)
