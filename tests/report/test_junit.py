import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from mpsprobe.report import render
from mpsprobe.run import Evidence, Phase, Status
from tests.report import example_runs as examples

#: Elements of junit-10.xsd (Jenkins' xunit plugin) that we use: children, attributes they must and may have.
_SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package"},
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name"},
        {"time", "classname", "group"},
    ),
    "properties": ({"property"}, set(), set()),
    "property": (set(), {"name", "value"}, set()),
    "skipped": (set(), set(), {"type", "message"}),
    "error": (set(), set(), {"type", "message"}),
    "failure": (set(), set(), {"type", "message"}),
    "system-out": (set(), set(), set()),
}


@pytest.mark.parametrize("build", examples.ALL.values(), ids=examples.ALL)
def test_the_document_keeps_the_conventions(build: examples.Build) -> None:
    root = ET.fromstring(render(build(), "junit"))
    for element in root.iter():
        children, required, optional = _SCHEMA[element.tag]
        assert {child.tag for child in element} <= children
        assert required <= set(element.attrib) <= required | optional
        if "time" in element.attrib:
            assert re.fullmatch(r"\d+\.\d{0,3}", element.attrib["time"])
    for suite in root.iter("testsuite"):
        cases = list(suite.iter("testcase"))
        assert int(suite.attrib["tests"]) == len(cases)
        assert int(suite.attrib["failures"]) == len(list(suite.iter("failure")))
        assert int(suite.attrib["errors"]) == len(list(suite.iter("error")))
        assert int(suite.attrib["skipped"]) == len(list(suite.iter("skipped")))
        assert float(suite.attrib["time"]) == pytest.approx(
            sum(float(c.attrib["time"]) for c in cases), abs=0.02
        )
        assert {"name", "timestamp", "hostname"} <= set(suite.attrib)


def test_each_check_is_a_case_of_its_phase() -> None:
    run = examples.emulated()
    root = ET.fromstring(render(run, "junit"))
    found = {case.attrib["name"]: case.attrib["classname"] for case in root.iter("testcase")}
    assert found == {check.id: f"mpsprobe.{check.phase.marker}" for check in run.checks}
    assert [suite.attrib["name"] for suite in root] == [
        *(f"mpsprobe.phase{number}" for number in range(1, 7)),
        "mpsprobe.ops",
    ]


def test_statuses_become_outcomes() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    for check, status in zip(run.checks, Status, strict=False):
        check.status = status
    root = ET.fromstring(render(run, "junit"))
    children = {
        case.attrib["name"]: [c.tag for c in case if c.tag in ("failure", "error", "skipped")]
        for case in root.iter("testcase")
    }
    by_status = {check.status: children[check.id] for check in run.checks[: len(Status)]}
    assert by_status == {
        Status.PASS: [],
        Status.WARN: [],
        Status.FAIL: ["failure"],
        Status.BLOCKED: ["skipped"],
        Status.SKIPPED: ["skipped"],
        Status.UNKNOWN: ["skipped"],
        Status.CRASHED: ["error"],
        Status.TIMEOUT: ["error"],
        Status.ERROR: ["error"],
    }


def test_evidence_and_measurements_are_properties() -> None:
    root = ET.fromstring(render(examples.virtual_gpu(), "junit"))
    suite = {p.attrib["name"]: p.attrib["value"] for p in root.findall("testsuite[1]/properties/property")}
    assert suite["virtual_gpu"] == "true"
    assert "no evidence for real Macs" in suite["verdict"]
    values = {p.attrib["name"]: p.attrib["value"] for p in root.iter("property")}
    assert values["inference.check1: evidence"] == "measured, mps"
    assert values["inference.check1: time per sample"] == "51.3 ms (measured, mps)"


def test_a_blocked_case_says_by_what() -> None:
    root = ET.fromstring(render(examples.pins_failed(), "junit"))
    skipped = root.find(".//testcase[@name='transfer.check1']/skipped")
    assert skipped is not None
    assert "huggingface-hub 1.3.2" in skipped.attrib["message"]
    assert Counter(e.tag for e in root.iter())["skipped"] == 8


def test_the_check_in_flight_is_a_case_with_the_last_output() -> None:
    root = ET.fromstring(render(examples.crashed(), "junit"))
    error = root.find(".//testcase[@name='transfer.placement']/error")
    assert error is not None
    assert error.attrib["type"] == "crashed"
    assert "SIGABRT" in error.attrib["message"]
    assert error.text is not None
    assert "failed assertion" in error.text
    assert "\x00" not in error.text
    assert root.find(f"testsuite[@name='mpsprobe.{Phase.TRANSFER.marker}']") is not None
