"""A run as JUnit XML: a test suite per stage, a test case per check.

Attributes and the order of elements follow the schema of Jenkins' xunit plugin (junit-10.xsd), against which
pytest's own `--junit-xml` is tested.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable

from mpsprobe.report import units
from mpsprobe.report.headline import all_checks, verdict
from mpsprobe.report.text import clean
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
    """The document, with its XML declaration."""
    checks = all_checks(run)
    root = ET.Element("testsuites", {"name": "mpsprobe", **_totals(checks)})
    for phase in Phase:
        if within := [check for check in checks if check.phase is phase]:
            root.append(_suite(run, phase, within))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False).join(
        ['<?xml version="1.0" encoding="utf-8"?>\n', "\n"]
    )


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
            ("evidence", headline.evidence.value if headline.evidence else "none"),
            ("verdict", headline.sentence),
            ("virtual_gpu", str(run.host.virtual_gpu).lower()),
            ("run", run.id),
            *(
                [("interrupted_by", run.interruption.signal or run.interruption.cause)]
                if run.interruption
                else []
            ),
        ],
    )
    for check in checks:
        suite.append(_case(phase, check))
    return suite


def _case(phase: Phase, check: Check) -> ET.Element:
    case = ET.Element(
        "testcase", classname=f"mpsprobe.{phase.marker}", name=clean(check.id), time=_time(check.duration_s)
    )
    _properties(
        case,
        [
            ("title", check.title),
            ("status", check.status.value),
            ("evidence", check.evidence.value if check.evidence else "none"),
            ("device", check.device),
            *([("blocked_by", check.blocked_by.label)] if check.blocked_by else []),
            *(
                (
                    f"measurement: {each.name}",
                    f"{units.value(each).text} ({each.evidence.value}, {each.device})",
                )
                for each in check.measurements
            ),
        ],
    )
    if outcome := _OUTCOMES.get(check.status):
        element = ET.SubElement(case, outcome, message=clean(check.message or check.title))
        if outcome != "skipped":
            element.set("type", check.status.value)
        element.text = clean("\n".join(part for part in (check.message, check.remedy, check.output) if part))
    elif check.message or check.remedy:
        ET.SubElement(case, "system-out").text = clean(
            "\n".join(p for p in (check.message, check.remedy) if p)
        )
    return case


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
