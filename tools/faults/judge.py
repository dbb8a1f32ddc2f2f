"""Judge every case by the promises of docs/security.md that hold whatever the fault is."""

from __future__ import annotations

import json
import re
from collections import Counter

from faults.case import BLOCKED, CRASHED, FAILED, HARNESS, INTERRUPTED, MARKER, PASSED, USAGE, Case, Outcome

#: Characters that steer a terminal or hide text: C0 but tab and line ends, C1, and the bidirectional controls.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_DOCUMENTED = {PASSED, FAILED, USAGE, BLOCKED, HARNESS, CRASHED, INTERRUPTED}
#: Statuses by the exit code that they give.
_CODES = [({"crashed", "timeout"}, CRASHED), ({"error"}, HARNESS), ({"fail"}, FAILED), ({"blocked"}, BLOCKED)]


def problem(case: Case, outcome: Outcome) -> str:
    """Return what is wrong with the outcome of a case, first by what holds for every case; `""` for nothing."""
    for found in (
        _ended(case, outcome),
        _printed(case, outcome),
        _left(case, outcome),
        _whole(case, outcome),
    ):
        if found:
            return found
    return case.check(outcome) if case.check is not None else ""


def _ended(case: Case, outcome: Outcome) -> str:
    if outcome.seconds >= case.limit_s:
        return f"did not end within {case.limit_s:g} s"
    if outcome.code not in _DOCUMENTED and outcome.code not in case.exits:
        return f"exit status {outcome.code} is not documented"
    if outcome.code not in case.exits:
        return f"exit status {outcome.code}, right are {sorted(case.exits)}"
    return ""


def _printed(case: Case, outcome: Outcome) -> str:
    if "Traceback (most recent call last)" in outcome.err and "--debug" not in case.argv:
        return "printed a traceback"
    if "mpsprobe itself failed: " in outcome.err or "Please report it" in outcome.err:
        return "called it a fault of mpsprobe"
    control = _CONTROLS.search(outcome.text)
    if control:
        return f"printed the control character {control[0]!r}"
    unwrapped = " ".join(outcome.text.split())  # where a line is wrapped depends on the length of a port
    if case.says and not re.search(case.says, outcome.text) and not re.search(case.says, unwrapped):
        return f"does not say {case.says!r}"
    found = re.search(case.silent, outcome.text) if case.silent else None
    return f"says {found[0]!r}" if found else ""


def _left(case: Case, outcome: Outcome) -> str:
    if (outcome.folder / MARKER).exists() and not case.runs_code:
        return "ran code that nobody asked for"
    if outcome.survivors:
        return f"left a process behind: {outcome.survivors[0]}"
    for name in ("report.md", "report.html", "junit.xml"):
        path = outcome.folder / "out" / name
        control = _CONTROLS.search(path.read_text(encoding="utf-8")) if path.is_file() else None
        if control:
            return f"{name} holds the control character {control[0]!r}"
    return ""


def _whole(case: Case, outcome: Outcome) -> str:
    """Return what is wrong with the run's document: unanswered or repeated checks, or another exit code."""
    if not case.lists_checks or outcome.run is None:
        return ""
    checks = outcome.run["checks"]
    ours = [one["message"] for one in checks if one["message"].startswith("mpsprobe failed")]
    if ours:
        return f"called it a fault of mpsprobe: {ours[0][:120]}"
    twice = [name for name, count in Counter(one["id"] for one in checks).items() if count > 1]
    if twice:
        return f"{twice[0]} is answered twice"
    journal = outcome.folder / "out" / "journal.jsonl"
    planned: list[str] = []
    for line in journal.read_bytes().splitlines() if journal.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("type") == "plan":
            planned = [one["id"] for one in event["checks"]]
    missing = [name for name in planned if name not in {one["id"] for one in checks}]
    if missing:
        return f"{len(missing)} planned checks have no answer, the first is {missing[0]}"
    if case.argv[0] != "run":
        return ""
    present = {one["status"] for one in checks}
    expected = next((code for statuses, code in _CODES if present & statuses), PASSED)
    if outcome.run.get("interruption"):
        expected = outcome.code if outcome.code in (CRASHED, INTERRUPTED) else CRASHED
    if expected != outcome.code:
        return f"exit status {outcome.code}, but the document means {expected}"
    return ""
