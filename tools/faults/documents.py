"""Documents that mpsprobe reads back: run.json, journals, baselines, expectation files, profiles."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from faults.case import PASSED, USAGE, Case, Outcome
from faults.making import check, document, journal, run_json

PROMISE = "A document that no mpsprobe wrote is refused in one line; a journal costs only the lines that are damaged."

_REPORT = ("report", "run.json", "--output", "out")
#: Texts that steer a terminal, hide text, or break a page.
_HOSTILE = {
    "escape": "\x1b[31mred\x1b[0m",
    "osc": "\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "title": "\x1b]0;owned\x07",
    "bidi": "abc\u202etxt.exe",
    "isolate": "\u2066abc\u2069",
    "c1": "\x9b31m",
    "bell": "\x07\x08\x08",
    "carriage": "fail\rpass",
    "delete": "a\x7fb",
    "script": "<script>alert(1)</script>",
    "markdown": "](javascript:alert(1)) `x` | a | <b>",
    "fence": "```\n# heading\n```",
    "xml": "]]>&<a b='c'>\x0b",
    "long": "x" * 100_000,
}


def _places(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each place where a report prints a text, with a document that holds the text there."""
    yield "name", document(target={"name": text, "profile": text, "path": text, "architecture": text})
    yield (
        "message",
        document(checks=[check(status="fail", message=text, remedy=text, output=text, title=text)]),
    )
    yield "table", document(checks=[check(table={"columns": [text, "b"], "rows": [[text, 1]]})])
    yield "limits", document(limits=[text], command=[text])
    yield "reason", document(device={"requested": "cpu", "used": text, "reason": text})
    yield "host", document(host={"system": text, "machine": text, "os_version": text, "chip": text})


def _harmless(outcome: Outcome) -> str:
    """Return what is wrong if the page holds a document's text as a script; `""` if it does not."""
    path = outcome.folder / "out" / "report.html"
    if path.is_file() and "<script>alert(1)</script>" in path.read_text(encoding="utf-8"):
        return "report.html holds a script of the document"
    return ""


def cases() -> Iterator[Case]:
    """Yield cases with broken, foreign and hostile run documents and journals."""
    for name, text in _HOSTILE.items():
        for place, data in _places(text):
            yield Case(
                f"hostile-{name}-{place}", _REPORT, {PASSED}, prepare=run_json(data), check=_harmless,
                lists_checks=False, short=name in ("escape", "bidi") and place == "message",
            )  # fmt: skip
    for form in ("md", "json", "junit", "summary"):
        data = document(target={"name": _HOSTILE["escape"], "profile": "\u202ex"})
        yield Case(
            f"printed-{form}", ("report", "run.json", "--format", form), {PASSED}, prepare=run_json(data)
        )
    yield from _damaged()
    yield from _journals()
    yield from _drawn()


def _damaged() -> Iterator[Case]:
    twice = document(checks=[check(), check()])
    ragged = document(checks=[check(table={"columns": ["a"], "rows": [["x", 1], []]})])
    wrong: dict[str, Any] = {
        "empty": b"", "null": b"null", "array": b"[]", "text": b"not json",
        "half": json.dumps(document()).encode()[:300],
        "nul": b"\x00" * 64, "latin": '{"schema": 1, "a": "é"}'.encode("latin-1"), "bom": b"\xef\xbb\xbf{}",
        "deep": b'{"schema": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "digits": b'{"schema": ' + b"9" * 10_000 + b"}", "exponent": b'{"schema": 1e400}',
        "schema-0": document(schema=0), "schema-2": document(schema=2), "schema-negative": document(schema=-1),
        "schema-large": document(schema=10**12), "schema-text": document(schema="1"), "unknown-field": document(evil=1),
        "unknown-status": document(checks=[check(status="passed")]),
        "unknown-phase": document(checks=[check(phase="x")]),
        "no-target": {k: v for k, v in document().items() if k != "target"}, "checks-object": document(checks={}),
        "twice": twice, "ragged": ragged, "number-name": document(target={"name": 1, "profile": "x"}),
        "nan": json.dumps(document(x=float("nan"))).encode(),
    }  # fmt: skip
    for name, data in wrong.items():
        yield Case(f"damaged-{name}", _REPORT, {USAGE}, "run.json", prepare=run_json(data), lists_checks=False,
                   short=name in ("deep", "digits", "schema-2", "half"))  # fmt: skip
    for command in ("compare", "expect"):
        argv = ("compare", "run.json", "run.json") if command == "compare" else ("expect", "run.json")
        for name in ("text", "schema-2", "deep", "digits"):
            yield Case(f"{command}-{name}", argv, {USAGE}, "run.json", prepare=run_json(wrong[name]))
    yield Case("missing", ("report", "nothing.json"), {USAGE}, "no such file")
    yield Case("folder", ("report", "."), {USAGE}, "neither run.json nor journal")
    yield Case("device", ("report", "/dev/zero"), {USAGE}, "device", limit_s=30)
    for name, field in (("time", "started"), ("id", "id"), ("version", "mpsprobe")):
        yield Case(
            f"odd-{name}", _REPORT, {PASSED}, prepare=run_json(document(**{field: "\u202e" + "x" * 5000}))
        )


def _events(*checks: dict[str, Any], end: bool = True, run_id: str = "") -> list[Any]:
    run = document(checks=[], ended="")
    planned = [
        {"id": one, "phase": "download", "title": one} for one in ("download.files", "download.dtypes")
    ]
    events: list[Any] = [{"type": "run", "run": run}, {"type": "plan", "checks": planned}]
    events += [{"type": "check", "check": one} for one in checks]
    events += [{"type": "end", "time": "2026-11-22T13:16:00Z"}] if end else []
    return [{**event, "run_id": run_id} if run_id and event["type"] != "run" else event for event in events]


def _statuses(**expected: str) -> Any:
    def judge(outcome: Outcome) -> str:
        found = {name: outcome.status(f"download.{name}") for name in expected}
        return "" if found == expected else f"statuses are {found}"

    return judge


def _journals() -> Iterator[Case]:
    files, dtypes = check(), check(id="download.dtypes")
    argv = ("report", "journal.jsonl", "--output", "out")
    both = _events(files, dtypes)
    start = {"type": "start", "id": "download.dtypes", "limit_s": 5.0}
    yield Case(
        "journal-whole", argv, {PASSED}, prepare=journal(*both), check=_statuses(files="pass", dtypes="pass")
    )
    for name, stray in (
        ("text", b"hello"), ("half", b'{"type": "check", "che'), ("binary", bytes(range(256)).replace(b"\n", b"")),
        ("null", b"null"), ("deep", b"[" * 50_000), ("digits", b"9" * 20_000), ("type", b'{"type": "evil"}'),
        ("empty", b""), ("second-run", json.dumps({"type": "run", "run": document(checks=[])}).encode()),
        ("other-run", json.dumps({"type": "check", "run_id": "other", "check": check(status="fail")}).encode()),
    ):  # fmt: skip
        lines = [*both[:3], stray, *both[3:]]
        yield Case(f"journal-stray-{name}", argv, {PASSED}, prepare=journal(*lines), short=name == "half",
                   check=_statuses(files="pass", dtypes="pass"))  # fmt: skip
    missing = _statuses(files="pass", dtypes="unknown")
    yield Case("journal-missing", argv, {PASSED}, prepare=journal(*_events(files)), check=missing, short=True)
    yield Case("journal-cut", argv, {PASSED}, prepare=journal(*_events(files, end=False)), check=missing)
    flying = [*_events(files, end=False), start]
    yield Case(
        "journal-in-flight",
        argv,
        {PASSED},
        prepare=journal(*flying),
        check=_statuses(files="pass", dtypes="crashed"),
    )
    twice = _events(files, check(status="fail"), dtypes)
    yield Case(
        "journal-twice",
        argv,
        {PASSED},
        prepare=journal(*twice),
        check=_statuses(files="error", dtypes="pass"),
    )
    yield Case("journal-no-run", argv, {USAGE}, "holds no run", prepare=journal(*both[1:]))
    yield Case("journal-empty", argv, {USAGE}, "holds no run", prepare=journal())
    later = copy.deepcopy(both)
    later[0]["run"]["schema"] = 7
    yield Case("journal-schema", argv, {USAGE}, "schema 7", prepare=journal(*later))


def _drawn() -> Iterator[Case]:
    """Yield cases with run documents in which hypothesis replaces one field by a drawn value."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis import strategies as st

    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    )
    value = st.recursive(
        leaf,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    drawn: list[dict[str, Any]] = []

    @seed(1)
    @settings(
        max_examples=30, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(sorted(document())), value, st.sampled_from(sorted(check())), value, st.booleans())
    def draw(field: str, one: Any, inner: str, other: Any, both: bool) -> None:
        drawn.append(document(**{field: one}) if both else document(checks=[check(**{inner: other})]))

    draw()
    for number, data in enumerate(drawn):
        raw = json.dumps(data).encode("utf-8", "surrogatepass")
        yield Case(f"drawn-{number}", _REPORT, {PASSED, USAGE}, prepare=run_json(raw), lists_checks=False)
