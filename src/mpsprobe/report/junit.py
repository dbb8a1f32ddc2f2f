"""Write a run as JUnit XML: one test suite per stage, one test case per check.

The document is valid against the schema that Jenkins' xunit plugin checks (its junit-10.xsd). That one knows
properties of a suite but not of a case, so a case's evidence and measurements are properties of its suite,
under names that begin with the case's.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from mpsprobe.report import units
from mpsprobe.report.escaping import clean
from mpsprobe.report.headline import all_checks, verdict
from mpsprobe.run import Check, Phase, Run, Status

#: The element a status becomes; a pass and a warning have none.
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
    """Return the document with its XML declaration."""
    checks = all_checks(run)
    totals = _totals(checks)
    del totals["skipped"]  # the schema knows it for a suite only
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
    """Return the evidence, blocker and measurements of one check as properties."""
    evidence = f"{check.evidence.value}, {check.device}" if check.evidence else "none"
    return [
        (f"{check.id}: evidence", evidence),
        *([(f"{check.id}: blocked by", check.blocked_by.label)] if check.blocked_by else []),
        *(
            (f"{check.id}: {each.name}", f"{units.value(each).text} ({each.evidence.value}, {each.device})")
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
