"""Field reports: what they hold, what they must not, and how they become points."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from mpsprobe.errors import DataError
from mpsprobe.forecast import field
from mpsprobe.run import Check, Evidence, Host, Measurement, OpVerdict, Phase, Status
from tests.forecast.test_calibrate import _calibration
from tests.routes.cases import case, use

MAC = Host(
    system="Darwin",
    machine="arm64",
    os_version="15.5",
    chip="Apple M1 Max",
    gpu_cores=32,
    memory_bytes=64 * 2**30,
    python="3.12.3",
    packages={"torch": "2.8.0", "transformers": "4.57.1", "numpy": "2.0"},
)


def _tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "field.py"
    spec = importlib.util.spec_from_file_location("field_tool", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _report() -> field.FieldReport:
    return field.of_calibration(_calibration("mps"), MAC, "1.0", "2026-11-28")


def test_a_calibration_leaves_chip_releases_and_rates(tmp_path: Path) -> None:
    _report().save(file := tmp_path / field.FILE)
    found = field.read(file)
    assert (found.chip, found.macos, found.memory_gb, found.torch) == ("Apple M1 Max", "15.5", 64, "2.13.0")
    rates = {one.what: (one.value, one.unit) for one in found.figures}
    assert rates["matmul float32"] == (1.0, "TFLOP/s")  # 2e9 FLOP in 2 ms
    assert rates["host stream"] == (10.0, "us")


def test_a_run_leaves_no_name_path_or_message() -> None:
    check = Check(
        id="inference.time",
        phase=Phase.INFERENCE,
        title="t",
        status=Status.PASS,
        message="/Users/somebody/secret hf_abcdefghijkl",
        measurements=[Measurement("time per sample", 1.25, "s", Evidence.MEASURED, "mps")],
    )
    raises = use("aten::nonzero", OpVerdict.RAISES, count=3, source="/Users/somebody/model.py:3")
    run = case([use(count=5), raises], checks=[check], host=MAC).run
    run.target.name = "/Users/somebody/my-model"
    run.target.path = "/Users/somebody/my-model"
    text = msgspec.json.encode(field.of_run(run)).decode()
    for private in ("somebody", "secret", "hf_", "my-model", "/Users"):
        assert private not in text
    found = field.of_run(run)
    assert found.verdicts == {"native": 5, "raises": 3}
    assert found.not_native == {"aten::nonzero": 3}
    assert [(one.what, one.value, one.unit) for one in found.figures] == [("time per sample", 1.25, "s")]


@pytest.mark.parametrize(
    "change",
    [
        {"chip": "/Users/me"},
        {"architecture": "me@example.org"},
        {"dtype": "hf_abcdefghijklmnop"},
        {"checks": {"inference.runs": "it said: see https://example.org"}},
        {"version": 7},
        {"secret": "x"},
    ],
)
def test_what_no_report_may_hold_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    document = msgspec.to_builtins(_report())
    (file := tmp_path / "x.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(DataError):
        field.read(file)


def test_a_report_becomes_points_once(tmp_path: Path) -> None:
    _report().save(file := tmp_path / field.FILE)
    points = tmp_path / "points.jsonl"
    tool = _tool()
    words = [
        "add",
        str(file),
        "--url",
        "https://github.com/mpsprobe/mpsprobe/issues/1",
        "--points",
        str(points),
    ]
    assert tool.main(words) == 0
    rows = [json.loads(line) for line in points.read_text().splitlines()]
    assert len(rows) == len(_report().figures)
    assert rows[0]["chip"] == "M1 Max"
    assert tool.main(words) == 0
    assert len(points.read_text().splitlines()) == len(rows)


def test_a_report_of_an_unknown_chip_is_refused(tmp_path: Path) -> None:
    msgspec.structs.replace(_report(), chip="Apple Z9").save(file := tmp_path / "x.json")
    assert _tool().main(["check", str(file)]) == 1
