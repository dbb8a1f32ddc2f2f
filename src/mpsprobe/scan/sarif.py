"""A report as SARIF 2.1.0, which GitHub code scanning and editors read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mpsprobe.scan.finding import Finding, Report, Unreadable
from mpsprobe.scan.rules import Rule, all_rules

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def document(report: Report) -> dict[str, Any]:
    """The report as a SARIF log of one run, ready for a JSON encoder."""
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


def _rule(rule: Rule) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} {rule.mend}"},
        "defaultConfiguration": {"level": rule.severity.value},
    }
    if rule.links:
        described["helpUri"] = rule.links[0]
    return described


def _result(finding: Finding, index: dict[str, int], twins: Counter[str]) -> dict[str, Any]:
    # The same finding on other lines keeps its identity, so that a dismissed alert stays dismissed.
    identity = hashlib.sha256(f"{finding.code}\0{finding.path}\0{finding.text}".encode()).hexdigest()[:32]
    twins[identity] += 1
    return {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": finding.severity.value,
        "message": {"text": f"{finding.message} {finding.mend}"},
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
    """A URI reference: relative to the repository's root, or absolute for a file outside it."""
    return Path(path).as_uri() if Path(path).is_absolute() else quote(path)
