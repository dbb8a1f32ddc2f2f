"""Check field reports that users attached to issues, add them to the measured points, and fit constants again.

    python tools/field.py check FILE ...
    python tools/field.py add FILE ... --url ISSUE
    python tools/field.py refit

`check` prints what each report holds, or why it is refused. `add` appends its figures to
`src/mpsprobe/knowledge/data/mac_points.jsonl`, once a report. `refit` runs `benchmarks/forecast.py --fit`, whose
output says what to write into `speed.toml`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mpsprobe.errors import DataError
from mpsprobe.forecast.field import FieldReport, read
from mpsprobe.knowledge import chips, speed

POINTS = Path(speed.__file__).parent / "data" / "mac_points.jsonl"
_BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "forecast.py"


def points_of(report: FieldReport, url: str) -> list[dict[str, Any]]:
    """Return the figures of a report as rows for `mac_points.jsonl`, without empty fields."""
    shared = {
        "url": url,
        "date": report.day,
        "chip": report.chip.removeprefix("Apple "),
        "gpu_cores": report.gpu_cores,
        "memory_gb": report.memory_gb,
        "macos": report.macos,
        "torch": report.torch,
        "framework": "PyTorch-MPS",
        "params_b": report.parameters / 1e9 if report.parameters else None,
        "dtype": report.dtype,
    }
    rows = []
    for one in report.figures:
        row = {
            **shared,
            "model": report.architecture or one.what,
            "workload": f"field report of mpsprobe {report.made_by}: {one.what}",
            "value": one.value,
            "unit": one.unit,
            "kind": "a" if report.made_by == "run" else "e",
        }
        rows.append({name: value for name, value in row.items() if value not in (None, "")})
    return rows


def problems(report: FieldReport) -> list[str]:
    """Return sentences with the reasons to reject a report; empty when there are none."""
    found = []
    if chips.find(report.chip) is None:
        found.append(f"The chip {report.chip!r} is not in the catalogue.")
    if not report.figures:
        found.append("It holds no figure that was measured on mps.")
    found += [
        f"{one.what}: {one.value} {one.unit} is not above zero." for one in report.figures if one.value < 0
    ]
    return found


def main(arguments: list[str]) -> int:
    """Run one of the three commands; return 1 when a report is refused."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["check", "add", "refit"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--url", help="the issue that the reports came with")
    parser.add_argument("--points", type=Path, default=POINTS)
    chosen = parser.parse_args(arguments)
    if chosen.what == "refit":
        return subprocess.run([sys.executable, str(_BENCHMARK), "--fit"], check=False).returncode
    if chosen.what == "add" and not chosen.url:
        parser.error("add: give --url, the issue that the reports came with")
    refused = 0
    known = set(chosen.points.read_text(encoding="utf-8").splitlines()) if chosen.points.is_file() else set()
    for file in chosen.files:
        try:
            report = read(file)
        except DataError as problem:
            print(f"refused: {problem.what}")  # noqa: T201
            refused = 1
            continue
        against = problems(report)
        for text in against:
            print(f"refused: {file}: {text}")  # noqa: T201
        refused |= bool(against)
        if against:
            continue
        lines = [
            line for row in points_of(report, chosen.url or "") if (line := json.dumps(row)) not in known
        ]
        print(f"{file}: {report.chip}, torch {report.torch}, {len(report.figures)} figures, {len(lines)} new")  # noqa: T201
        if chosen.what == "add" and lines:
            with chosen.points.open("a", encoding="utf-8") as out:
                out.write("\n".join(lines) + "\n")
            known |= set(lines)
    return refused


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
