"""The document of a run: round trip, schema by somebody else's validator, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from mpsprobe.errors import DataError
from mpsprobe.run import (
    SCHEMA_VERSION,
    Check,
    DeviceChoice,
    Evidence,
    Host,
    Interruption,
    Measurement,
    OpUse,
    Phase,
    Run,
    Status,
    Table,
    Target,
    TensorMeta,
    exit_code,
    json_schema,
    worst,
)


def a_run(*statuses: Status, interruption: Interruption | None = None) -> Run:
    """A document with one check a status, and something in every field."""
    return Run(
        mpsprobe="0.1.0",
        id="20261122T131500Z-4f2a",
        started="2026-11-22T13:15:00Z",
        ended="2026-11-22T13:16:00Z",
        command=["mpsprobe", "run"],
        target=Target(name="org/model", profile="transformers", parameters=3, weight_bytes=6),
        host=Host(system="Linux", machine="x86_64", os_version="6.1", packages={"torch": "2.13.0"}),
        device=DeviceChoice("auto", "emulated", "no Mac"),
        limits=["Emulated."],
        checks=[
            Check(
                id=f"transfer.{n}",
                phase=Phase.TRANSFER,
                title="A title",
                status=status,
                evidence=Evidence.EMULATED,
                device="emulated",
                measurements=[Measurement("time", 0.25, "s", Evidence.MEASURED, "host")],
                table=Table(["a", "b"], [[1, None], ["x", True]]),
            )
            for n, status in enumerate(statuses)
        ],
        op_uses=[
            OpUse(
                op="aten::mm", inputs=[TensorMeta("float32", (2, 3), (3, 1), "mps:0")], scalars={"alpha": 1}
            )
        ],
        interruption=interruption,
    )


def test_a_document_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    run = a_run(Status.PASS, Status.WARN)
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run


def test_a_document_fits_the_schema_and_a_foreign_key_does_not(tmp_path: Path) -> None:
    a_run(*Status).save(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    document["checks"][0]["status"] = "perfect"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a run document"),
        ("[]", "not a run document"),
        ('{"schema": 1, "mpsprobe": 3}', "$.mpsprobe"),
        (f'{{"schema": {SCHEMA_VERSION + 1}}}', "Upgrade"),
    ],
)
def test_each_kind_of_bad_document_is_told_apart(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        Run.load(path)
    assert str(path) in caught.value.what
    assert says in str(caught.value)


def test_a_missing_document_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.json"):
        Run.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.PASS, Status.WARN, Status.SKIPPED, Status.UNKNOWN], 0),
        ([Status.PASS, Status.FAIL, Status.BLOCKED], 1),
        ([Status.PASS, Status.BLOCKED], 3),
        ([Status.FAIL, Status.ERROR], 4),
        ([Status.ERROR, Status.CRASHED], 5),
        ([Status.FAIL, Status.TIMEOUT], 5),
    ],
)
def test_the_worst_status_decides_the_exit_code(statuses: list[Status], code: int) -> None:
    assert exit_code(a_run(*statuses)) == code


def test_an_interrupted_run_never_exits_as_a_pass() -> None:
    assert exit_code(a_run(Status.PASS, interruption=Interruption("interrupted", "SIGTERM", "", ""))) == 5


def test_nothing_checked_is_unknown_not_a_pass() -> None:
    assert worst([]) is Status.UNKNOWN
    assert worst([Status.UNKNOWN, Status.SKIPPED]) is Status.UNKNOWN


def test_markers_are_what_users_type() -> None:
    assert [phase.marker for phase in Phase] == [
        "phase1", "phase2", "phase3", "phase4", "phase5", "phase6", "train", "ops", "benchmark",
    ]  # fmt: skip


@pytest.mark.parametrize("schema", [0, -1, 2, 10**12])
def test_unknown_schema_is_refused(tmp_path: Path, schema: int) -> None:
    run = a_run(Status.PASS)
    run.schema = schema
    run.save(tmp_path / "run.json")
    with pytest.raises(DataError, match=f"schema {schema}"):
        Run.load(tmp_path / "run.json")


def test_check_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    run = a_run(Status.PASS)
    run.checks = [run.checks[0], run.checks[0]]
    run.save(tmp_path / "run.json")
    with pytest.raises(DataError, match="is there twice"):
        Run.load(tmp_path / "run.json")


def test_table_with_ragged_rows_is_refused(tmp_path: Path) -> None:
    run = a_run(Status.PASS)
    run.checks[0].table = Table(["a"], [["x", 1]])
    run.save(tmp_path / "run.json")
    with pytest.raises(DataError, match="another length than its header"):
        Run.load(tmp_path / "run.json")


def test_checks_of_a_phase_are_those_of_no_other() -> None:
    run = a_run(Status.PASS)
    phase = run.checks[0].phase
    assert run.of_phase(phase) == [check for check in run.checks if check.phase == phase]
    assert all(not run.of_phase(other) for other in Phase if other not in {c.phase for c in run.checks})
