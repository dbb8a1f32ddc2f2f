from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.expect import command
from mpsprobe.cli.sink import Sink
from mpsprobe.ops import expectations
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Host,
    Mac,
    Phase,
    ReplayRecord,
    Replays,
    Run,
    Status,
    Table,
    Target,
)


def check(id_: str, status: Status, **more: object) -> Check:
    return Check(id=id_, phase=Phase(id_.split(".")[0]), title="t", status=status, **more)  # type: ignore[arg-type]


def run_of(*checks: Check, system: str = "Darwin") -> Run:
    return Run(
        mpsprobe="1",
        id="20261122T131500Z-4f2a",
        started="2026-11-22T13:15:00Z",
        target=Target(name="tiny-drive", profile="tiny-drive"),
        host=Host(
            system=system,
            machine="arm64",
            os_version="15.5",
            chip="Apple M1 Max",
            packages={"torch": "2.8.0"},
        ),
        device=DeviceChoice("mps", "mps", ""),
        checks=list(checks),
    )


@pytest.fixture
def expect(tmp_path: Path):  # type: ignore[no-untyped-def]
    def call(run: Run, *arguments: str, as_json: bool = False) -> Result:
        run.save(tmp_path / "run.json")
        arguments = (str(tmp_path / "run.json"), "--output", str(tmp_path), *arguments)
        return CliRunner().invoke(command, list(arguments), obj=Sink(as_json=as_json))

    return call


FOUND = (
    check("ops.aten.mm-f32-2x3_3x4", Status.FAIL, message='off by "2" \x1b[0m\nmore'),
    check("ops.aten.add.Tensor-f32-2", Status.PASS),
    check("ops.aten.cat-f32-24x64*16", Status.CRASHED, message="SIGABRT"),
    check("ops.aten.sort-f32-9", Status.TIMEOUT),
    check("ops.missing", Status.FAIL),
    check("transfer.load", Status.CRASHED),
    check(
        "ops.replay",
        Status.CRASHED,
        data=Replays(
            [
                ReplayRecord("ops.aten.bmm-f32-1", "wrong", "off", 3),
                ReplayRecord("ops.aten.t-f32-1", "hangs", "late"),
            ]
        ),
        table=Table(
            columns=["op use", "outcome", "calls", "module", "what"],
            rows=[["aten.bmm-f32-1", "wrong", 3, "a", "off"], ["aten.t-f32-1", "hangs", 1, "b", "late"]],
        ),
    ),
)


def test_what_it_writes_the_suite_reads(expect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = expect(run_of(*FOUND))
    assert done.exit_code == 0, done.output
    files = expectations.read(tmp_path / "xfails.toml", tmp_path / "skips.toml")
    here = files.on(Mac("2.8.0", "15.5", "Apple M1 Max"))
    assert set(here.xfails) == {"ops.aten.mm-f32-2x3_3x4", "ops.aten.bmm-f32-1"}
    assert set(here.skips) == {"ops.aten.cat-f32-24x64*16", "ops.aten.sort-f32-9", "ops.aten.t-f32-1"}
    for other in (
        Mac("2.9.0", "15.5", "Apple M1 Max"),
        Mac("2.8.0", "26.0", "Apple M1 Max"),
        Mac("2.8.0", "15.5", "Apple M4"),
    ):
        assert not files.on(other).xfails


def test_elsewhere_than_on_a_mac_torch_alone_is_the_key(expect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    expect(run_of(*FOUND, system="Linux"))
    assert expectations.read(tmp_path / "xfails.toml").on(Mac("2.8.0+cpu")).xfails


def test_nothing_to_expect_is_a_file_too(expect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert expect(run_of()).exit_code == 0
    assert not expectations.read(tmp_path / "xfails.toml", tmp_path / "skips.toml").xfails


def test_files_that_are_there_are_kept(expect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    expect(run_of(*FOUND))
    (tmp_path / "skips.toml").write_text("# mine")
    refused = expect(run_of(*FOUND))
    assert "is there already" in str(refused.exception)
    assert (tmp_path / "skips.toml").read_text() == "# mine"
    assert expect(run_of(*FOUND), "--force").exit_code == 0


def test_json_has_the_ids(expect) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(expect(run_of(*FOUND), as_json=True).output)
    assert found["xfails.toml"] == ["ops.aten.mm-f32-2x3_3x4", "ops.aten.bmm-f32-1"]
