"""SARIF, GitHub's commands and text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from mpsprobe.scan import Options, Report, formats, scan, sources


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "odd name, 100%"
    folder.mkdir()
    (folder / "a.py").write_text(
        "import torch\n\nx = torch.ones(\n    2,\n).cuda()\ntorch.cuda.synchronize()\n" * 2
    )
    (folder / "broken.py").write_text("def f(:\n")
    return scan(sources.of_path(folder), Options(torch="2.13"))


def log(report: Report) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(msgspec.json.encode(formats.sarif(report)))
    return document


def test_sarif_has_what_the_standard_asks_for(report: Report) -> None:
    # Section numbers are those of SARIF 2.1.0; the whole schema (oasis-tcs/sarif-spec) accepts it too.
    document = log(report)
    assert document["version"] == "2.1.0"  # 3.13.2
    (run,) = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "mpsprobe"  # 3.19.8
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    assert len(run["results"]) == len(report.findings) == 4
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]  # 3.27.6
        assert result["level"] in ("none", "note", "warning", "error")  # 3.27.10
        assert result["message"]["text"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        region = place["region"]
        assert 1 <= region["startLine"] <= region["endLine"]  # 3.30.5
        assert (region["startLine"], region["startColumn"]) < (region["endLine"], region["endColumn"])
        uri = urlsplit(place["artifactLocation"]["uri"])
        assert uri.scheme in ("", "file")
        assert Path(unquote(uri.path)).name == "a.py"
        assert " " not in place["artifactLocation"]["uri"]
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["locations"][0]["physicalLocation"]["region"]["startLine"] == 1


def test_sarif_fingerprints_survive_moved_lines(report: Report, tmp_path: Path) -> None:
    def prints(of: Report) -> list[str]:
        return [result["partialFingerprints"]["mpsprobe/v1"] for result in log(of)["runs"][0]["results"]]

    before = prints(report)
    assert len(set(before)) == 4
    file = tmp_path / "odd name, 100%" / "a.py"
    file.write_text("# a new line\n" + file.read_text())
    assert prints(scan(sources.of_path(file.parent), Options(torch="2.13"))) == before


def test_sarif_names_a_file_elsewhere_by_its_uri(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import torch\ntorch.cuda.synchronize()\n")
    found = scan(sources.of_path(tmp_path), Options(torch="2.13"))
    result = log(found)["runs"][0]["results"][0]
    assert (
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == (tmp_path / "a.py").as_uri()
    )


def test_githubs_commands_escape_what_they_must(report: Report) -> None:
    lines = formats.github(report).splitlines()
    assert len(lines) == 5
    for line in lines:
        level, properties, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
        assert level in ("error", "warning", "notice")
        values = dict(pair.split("=", 1) for pair in properties.split(","))
        assert values["file"].startswith("odd name%2C 100%25/")
        assert int(values["line"]) >= 1
        assert message
        if values.get("endLine", values["line"]) != values["line"]:
            assert "col" not in values
    assert lines[0].startswith("::error ")
    assert lines[-1].startswith("::warning ")


def test_text_states_places_first_and_totals_last(report: Report) -> None:
    written = formats.text(report)
    assert written.startswith("odd name, 100%/a.py:3:5: error MPS101")
    assert "odd name, 100%/broken.py:1: not valid Python" in written
    assert written.count("why:") == 2
    assert written.endswith("4 errors in 1 file, 12 lines (torch 2.13); 1 file not read.")
    assert "why:" not in formats.text(report, explain=False)


def test_json_reads_back(report: Report) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
