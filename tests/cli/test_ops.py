"""`mpsprobe ops` as users call it."""

import json

import pytest
from click.testing import CliRunner, Result

from mpsprobe.cli.ops import command, compare, row
from mpsprobe.cli.sink import Sink
from mpsprobe.errors import UsageError
from mpsprobe.knowledge import ops


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, obj=Sink(), catch_exceptions=False)


def _rows(*arguments: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(_run(*arguments, "--json").stdout)
    return rows


def test_json_rows_have_the_documented_keys() -> None:
    (found,) = _rows("aten::_linalg_eigh.eigenvalues", "--torch", "2.6.0")
    assert list(found) == ["op", "torch", "verdict", "via", "dtypes", "macos", "source", "note"]
    assert found["verdict"] == "raises"
    assert found["macos"] == "13.0"
    assert found["note"] == "PYTORCH_ENABLE_MPS_FALLBACK=1 runs it on the CPU"
    assert str(found["source"]).startswith("torch-2.6.0-")
    assert found["dtypes"] == []


def test_all_releases_in_order() -> None:
    found = _rows("aten::index_copy.out", "--torch", "all")
    assert [entry["torch"] for entry in found] == list(ops.releases())
    assert [entry["verdict"] for entry in found] == ["raises"] * 7 + ["native"] * 8  # release notes of 2.8


def test_equal_releases_are_drawn_together_for_people() -> None:
    lines = _run("aten::index_copy.out", "--torch", "all").stdout.splitlines()
    assert len(lines) == 3
    assert "2.1-2.7" in lines[1]
    assert "2.8-2.15" in lines[2]


def test_a_composite_names_what_is_missing() -> None:
    found = {str(entry["op"]): entry for entry in _rows("torch.linalg.eigh", "--torch", "2.13")}
    assert found["aten::linalg_eigh"]["verdict"] == "raises"
    assert found["aten::linalg_eigh"]["via"] == "aten::_linalg_eigh.eigenvalues"


def test_a_dtype_is_asked_about() -> None:
    (found,) = _rows("aten::mm", "--torch", "2.6", "--dtype", "long")
    assert (found["verdict"], found["note"]) == (
        "raises",
        "MPS device does not support mm for non-float inputs",
    )
    (found,) = _rows("aten::mm", "--torch", "2.6", "--dtype", "half")
    assert (found["verdict"], found["note"]) == ("native", "")


def test_a_macos_is_asked_about() -> None:
    (found,) = _rows("aten::mm", "--torch", "2.9", "--macos", "13.6")
    assert (found["verdict"], found["note"]) == ("raises", "torch 2.9 offers MPS on macOS 14.0 and newer")
    (found,) = _rows("aten::mm", "--torch", "2.8", "--macos", "13.6")
    assert found["verdict"] == "native"
    assert "bfloat16" not in list(found["dtypes"])  # type: ignore[call-overload]


def test_the_cpu_fallback_is_said() -> None:
    found = row("aten::linalg_svd", "2.13")
    assert (found.verdict, found.note) == ("fallback", "runs on the CPU, with a warning")
    assert row("aten::_cudnn_rnn", "2.13").note == "PYTORCH_ENABLE_MPS_FALLBACK=1 does not help"


def test_what_changed_between_two_releases() -> None:
    changes = {change.op: change for change in compare("2.7", "2.8")}
    assert (changes["aten::index_copy.out"].before, changes["aten::index_copy.out"].after) == (
        "missing",
        "native",
    )
    assert "aten::mm" not in changes
    assert compare("2.8", "2.8") == []
    only = _rows("aten::index_copy.out", "--diff", "2.7", "2.8")
    assert only == [{"op": "aten::index_copy.out", "before": "missing", "after": "native", "via": ""}]


def test_the_installed_release_or_the_newest_is_meant() -> None:
    assert {entry["torch"] for entry in _rows("aten::mm")} <= set(ops.releases())


def test_a_misspelt_op_and_no_op_are_usage_errors() -> None:
    with pytest.raises(ops.UnknownOpError) as caught:
        _run("torch.linalg.svdd")
    assert "aten::linalg_svd" in caught.value.hint
    with pytest.raises(UsageError, match="No op given"):
        _run()
    with pytest.raises(ops.UnknownReleaseError):
        _run("aten::mm", "--torch", "3.1")
