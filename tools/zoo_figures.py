"""Print the figures of the zoo in docs/virtual-device.md, from pytest's reports of its tests.

    python -m pytest tests/device/virtual/test_zoo.py tests/device/virtual/test_diffusers.py --junitxml zoo.xml
    python tools/zoo_figures.py zoo.xml

print one row for each model: CPU seconds of one call on the CPU, emulated and predicted, and how the engines agree.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree
from pathlib import Path

_COLUMNS = ("cpu s", "emulate s", "predict s", "ops", "ops differ by", "assumptions", "difference")


def rows(report: Path) -> list[tuple[str, dict[str, float]]]:
    """Return the name of the model and its figures by name, for each test of a report that recorded figures."""
    found = []
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        figures = {one.get("name", ""): float(one.get("value", "nan")) for one in case.iter("property")}
        if figures:
            found.append((case.get("name", "").partition("[")[2].rstrip("]"), figures))
    return found


def main() -> int:
    """Print the zoo's figures as a table, with their sums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, nargs="+")
    chosen = parser.parse_args()
    found = [row for report in chosen.report for row in rows(report)]
    out = [f"| model | {' | '.join(_COLUMNS)} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    out += [
        f"| {name} | {' | '.join(f'{figures[one]:.4g}' for one in _COLUMNS)} |" for name, figures in found
    ]
    total = {one: sum(figures[one] for _, figures in found) for one in _COLUMNS}
    same = sum(figures["ops differ by"] == 0 for _, figures in found)
    exact = sum(figures["difference"] == 0 for _, figures in found)
    out.append(
        f"{len(found)} models: CPU {total['cpu s']:.1f} s, emulated {total['emulate s']:.1f} s, predicted "
        f"{total['predict s']:.1f} s; {exact} equal to the CPU bit for bit; the same ops in both engines for {same}."
    )
    sys.stdout.write("\n".join(out) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
