from __future__ import annotations

from pathlib import Path

import pytest

from mpsprobe.errors import UsageError
from mpsprobe.ops import expectations
from mpsprobe.ops.expectations import Entry, Expectations
from mpsprobe.phases.check import Result
from mpsprobe.run import Mac, Status

MAC = Mac("2.8.0", "15.5", "Apple M1 Max")


@pytest.mark.parametrize(
    ("entry", "applies"),
    [
        ({}, True),
        ({"torch": "==2.8.*"}, True),
        ({"torch": ">=2.9"}, False),
        ({"macos": ">=15,<16"}, True),
        ({"macos": "<15"}, False),
        ({"chip": "M1"}, True),
        ({"chip": "M1 Max"}, True),
        ({"chip": "M1 Pro"}, False),
        ({"chip": "M4"}, False),
        ({"torch": "==2.8.*", "macos": "<15", "chip": "M1"}, False),
    ],
)
def test_entries_are_about_torch_macos_and_chip(entry: dict[str, str], applies: bool) -> None:
    assert Entry(ids=["x"], **entry).applies(MAC) is applies


def test_unknown_facts_match_unconditional_entries_only() -> None:
    unknown = Mac("2.13.0+cpu")
    assert Entry(ids=["x"], torch="==2.13.*").applies(unknown)
    assert not Entry(ids=["x"], macos=">=13").applies(unknown)
    assert not Entry(ids=["x"], chip="M1").applies(unknown)


@pytest.mark.parametrize("status", [Status.FAIL, Status.CRASHED, Status.TIMEOUT])
def test_a_known_failure_is_a_warning_with_its_reason(status: Status) -> None:
    known = Expectations({"ops.aten.mm-*": "issue 7"})
    judged = known.judged("ops.aten.mm-f32-2x3_3x4", Result(status, "off by 2"))
    assert judged.status is Status.WARN
    assert "issue 7" in judged.message
    assert "off by 2" in judged.message
    assert known.judged("ops.aten.bmm-f32", Result(status)).status is status


def test_a_known_failure_that_passes_is_said() -> None:
    judged = Expectations({"ops.x": ""}).judged("ops.x", Result(Status.PASS))
    assert judged.status is Status.WARN
    assert "does not" in judged.message


def test_a_known_crash_is_not_tried() -> None:
    known = Expectations(skips={"ops.x": "aborts in Metal"})
    assert "aborts in Metal" in (known.skip("ops.x") or "")
    assert known.skip("ops.y") is None


def test_ids_with_stars_of_their_own_are_found() -> None:
    known = Expectations({"ops.aten.cat-f32-24x64*16-dim=1": ""})
    assert known.unused(["ops.aten.cat-f32-24x64*16-dim=1"]) == []
    assert known.unused(["ops.aten.cat-f32-24x64_16-dim=1"]) == list(known.xfails)


def test_ids_that_match_nothing_are_named() -> None:
    known = Expectations({"ops.a": "", "ops.gone": ""}, {"ops.b*": "", "ops.also-gone": ""})
    assert known.unused(["ops.a", "ops.bc"]) == ["ops.gone", "ops.also-gone"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[expect]]\nids = 'x'", "ids"),
        ("[[expect]]\nids = ['x']\nchips = 'M1'", "chips"),
        ("[[expect]]\nids = ['x']\ntorch = 'two'", "two"),
        ("expect", "TOML"),
    ],
)
def test_a_file_without_its_form_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "xfails.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        expectations.read(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such"):
        expectations.read(None, tmp_path / "skips.toml")
