from __future__ import annotations

import json
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpsprobe
from mpsprobe.errors import UsageError
from mpsprobe.report import DEFAULT, FILES, Format, render, write
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Evidence,
    Host,
    Interruption,
    Measurement,
    OpUse,
    OpVerdict,
    Phase,
    Run,
    Status,
    Table,
    Target,
    TensorMeta,
    json_schema,
)
from tests.report import example_runs as examples
from tests.report.test_html import Page
from tests.report.test_markdown import cells, tables

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "",
        "a|b",
        "```",
        "<script>",
        "`x",
        "\x00\x1b[31m",
        "\n- x",
        "https://a.example/?q=<b>",
        "]]>",
        "\\",
        "&lt;",
        "-->",
    ]
)
_phases, _evidence = st.sampled_from(Phase), st.sampled_from(Evidence)
_devices = st.sampled_from(["host", "cpu", "mps", "emulated", "cuda"]) | _text
_ints = st.integers(-(2**63), 2**63 - 1)
_cells = st.none() | st.booleans() | _ints | st.floats() | _text
_measurements = st.builds(
    Measurement, _text, _cells, st.sampled_from(["s", "bytes", "FLOP", ""]) | _text, _evidence, _devices
)
_tables = st.builds(
    Table,
    columns=st.lists(_text, min_size=1, max_size=3),
    rows=st.lists(st.lists(_cells, max_size=4), max_size=3),
)
_checks = st.builds(
    Check,
    id=_text,
    phase=_phases,
    title=_text,
    status=st.sampled_from(Status),
    evidence=st.none() | _evidence,
    device=_devices,
    message=_text,
    remedy=_text,
    measurements=st.lists(_measurements, max_size=2),
    table=st.none() | _tables,
    output=_text,
    blocked_by=st.none() | _phases,
    duration_s=st.floats(0, 1e9),
)
_metas = st.builds(TensorMeta, _text, st.lists(_ints, max_size=3).map(tuple), st.just(()))
_uses = st.builds(
    OpUse,
    op=_text,
    inputs=st.lists(_metas, max_size=2),
    count=st.integers(0, 10**12),
    module=_text,
    source=_text,
    verdict=st.sampled_from(OpVerdict),
    via=_text,
    advisories=st.lists(_text, max_size=2),
    evidence=_evidence,
    flops=st.none() | st.integers(0, 2**62),
)
_hosts = st.builds(
    Host,
    system=st.sampled_from(["Darwin", "Linux"]) | _text,
    machine=_text,
    os_version=_text,
    chip=st.none() | _text,
    gpu=st.none() | _text,
    virtual_gpu=st.booleans(),
    memory_bytes=st.none() | st.integers(0, 2**50),
    packages=st.dictionaries(_text, _text, max_size=2),
)
_runs = st.builds(
    Run,
    mpsprobe=_text,
    id=_text,
    started=_text | st.just("2026-11-22T13:15:00Z"),
    ended=_text | st.just("2026-11-22T13:16:00+02:00"),
    command=st.lists(_text, max_size=2),
    target=st.builds(Target, name=_text, profile=_text, parameters=st.none() | st.integers(0, 2**60)),
    host=_hosts,
    device=st.builds(DeviceChoice, _text, _devices, _text),
    limits=st.lists(_text, max_size=2),
    checks=st.lists(_checks, max_size=5, unique_by=lambda check: check.id),
    op_uses=st.lists(_uses, max_size=3),
    interruption=st.none()
    | st.builds(Interruption, st.sampled_from(["crashed", "timeout", "interrupted"]), _text, _text, _text),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_runs)
def test_every_run_there_can_be_gives_every_report(run: Run) -> None:
    assert Page(render(run, "html")).tags["script"] == 1  # the page's own
    ET.fromstring(render(run, "junit"))
    ET.fromstring(render(run, "badge"))
    json.loads(render(run, "json"))
    for name in ("md", "summary"):
        for header, rule, *rows in tables(render(run, name)):
            assert {cells(row) for row in (header, rule, *rows)} == {cells(header)}


def test_numbers_that_are_no_numbers_are_shown() -> None:
    run = examples.passed("cpu", Evidence.MEASURED)
    run.checks[2].table = Table(columns=["x"], rows=[[float("inf")], [float("nan")]])
    assert "| inf |" in render(run, "md")


def test_reports_need_no_torch() -> None:
    code = "import sys, mpsprobe.cli.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_formats_have_files() -> None:
    assert tuple(sorted(FILES)) == tuple(sorted(get_args(Format)))


def test_write_leaves_the_four_reports(tmp_path: Path) -> None:
    run = examples.pins_failed()
    written = write(run, tmp_path / "new" / "folder")
    assert [path.name for path in written.values()] == ["run.json", "report.md", "report.html", "junit.xml"]
    assert tuple(written) == DEFAULT
    assert Run.load(written["json"]) == run
    run.save(tmp_path / "saved.json")
    assert written["json"].read_bytes() == (tmp_path / "saved.json").read_bytes()
    assert written["html"].read_text(encoding="utf-8") == render(run, "html")


def test_write_to_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write(examples.pins_failed(), tmp_path / "file")


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    path = write(examples.pins_failed(), tmp_path)["html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (examples.virtual_gpu, "pass · measured on mps (virtual GPU)"),
        (examples.emulated, "fail · emulated"),
        (examples.crashed, "crashed · measured on host"),
        (examples.interrupted, "interrupted · measured on host"),
    ],
)
def test_the_badge_never_shows_a_status_without_its_evidence(build: examples.Build, message: str) -> None:
    svg = ET.fromstring(render(build(), "badge"))
    assert svg.attrib["aria-label"] == f"mpsprobe: {message}"


@pytest.mark.parametrize("build", examples.ALL.values(), ids=examples.ALL)
def test_documents_keep_the_schema(build: examples.Build) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(render(build(), "json")))


def test_the_schema_refuses_what_is_not_a_run() -> None:
    document = json.loads(render(examples.pins_failed(), "json"))
    document["checks"][0]["status"] = "passed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(document)


def test_the_schema_in_the_package_is_the_one_the_types_make() -> None:
    packaged = json.loads((Path(mpsprobe.__file__).parent / "run.schema.json").read_text(encoding="utf-8"))
    assert packaged == json_schema(), "run: mpsprobe report --schema > src/mpsprobe/run.schema.json"
