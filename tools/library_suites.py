"""Run the tests of Hugging Face's libraries on the CPU and on the emulated device, and compare the outcomes.

    python tools/library_suites.py transformers FOLDER [TEST ...] --results FILE

FOLDER is the library's source distribution or checkout, of the release that is installed; TEST is a file in it, a
pattern of files, or a class (`tests/x/test_y.py::SomeTest`). Each runs twice in child processes with limits of time
and memory: on the plain CPU, and under `mpsprobe.emulate` with the library's own device selection as on a Mac. A
test that kills its process or hangs is recorded, and the others still run. FILE gets one line of JSON per test and
device; what is in it already is not run again, except with `--again` the tests whose outcomes differ.

The table on stdout counts the outcomes and explains each difference: a limit of MPS (the device refused in that
test), out of reach of the emulation, or what `data/library_differences.toml` says of the test. What nothing explains
is `unexplained`, and may be a fault of the emulated device.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import importlib.metadata
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from mpsprobe import toml
from peer_suite import CHILD

_TOOLS = Path(__file__).parent
_DIFFERENCES = _TOOLS / "data" / "library_differences.toml"
_DEVICES = ("cpu", "mps")
#: Importing a library and collecting its tests takes longer than most tests do.
_COLLECTING = 180
#: How a library is told the device; accelerate and peft ask PyTorch.
_DEVICE_VARIABLES = ("TRANSFORMERS_TEST_DEVICE", "DIFFUSERS_TEST_DEVICE")
#: The outcome of a file that pytest could not import, and that is tried again.
_LOST = "not collected"
#: Columns of tests without a difference. Many tests are for accelerators, and skipped on a CPU.
_SAME = ("pass on both", "pass emulated only", "fail on both", "skipped")
#: Kinds of a difference, in the order of the table.
LIMIT, REACH, TOLERANCE, ASSUMPTION, UNEXPLAINED = KINDS = (
    "limit of MPS",
    "out of reach",
    "tolerance",
    "assumption",
    "unexplained",
)


class Difference(msgspec.Struct, forbid_unknown_fields=True):
    """A kind of difference between the two outcomes of a test, with its explanation.

    Attributes:
        library: The library whose test it is.
        test: A regular expression that is searched for in the test's id.
        error: A regular expression that is searched for in the error on the emulated device.
        kind: The kind of difference, one of `KINDS`.
        why: The explanation.
    """

    library: str
    test: str
    error: str
    kind: str
    why: str


class Differences(msgspec.Struct, forbid_unknown_fields=True):
    """The content of `data/library_differences.toml`: the differences that are explained."""

    difference: list[Difference]


@dataclass(frozen=True)
class Limits:
    """The limits of a child process: time, memory and share of the tests.

    Attributes:
        seconds: The longest that one test may take.
        memory_gib: The address space of a child in GiB.
        every: The distance of the tests that run: 5 for every fifth, 1 for all.
    """

    seconds: float
    memory_gib: float
    every: int


class Results:
    """The file of outcomes, to which several threads add.

    Attributes:
        path: The file.
        lines: Its content: outcomes of tests, and `{"finished": UNIT, "device": ...}` for units that are done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        if path.is_file():
            self.lines = [json.loads(line) for line in path.read_text().splitlines()]
            self._forget({line["test"] for line in self.lines if line.get("outcome") == _LOST})

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append outcomes to the file, one JSON line each."""
        with self._lock, self.path.open("a") as file:
            for line in lines:
                self.lines.append(line)
                file.write(json.dumps(line) + "\n")

    def finished(self, unit: str, device: str) -> bool:
        """Return whether every test of a unit (a file or a class) has its outcome on a device."""
        return {"finished": unit, "device": device} in self.lines

    def tests(self, unit: str, device: str) -> dict[str, dict[str, Any]]:
        """Return the outcomes of a unit's tests on a device by the test's id."""
        return {
            line["test"]: line
            for line in self.lines
            if "test" in line and (line["unit"], line["device"]) == (unit, device)
        }

    def forget_differences(self) -> None:
        """Remove the tests whose outcomes differ on the two devices, so that they run again on both."""
        outcomes: dict[str, set[str]] = collections.defaultdict(set)
        for line in self.lines:
            if "test" in line:
                outcomes[line["test"]].add(line["outcome"])
        self._forget({test for test, seen in outcomes.items() if len(seen) > 1})

    def _forget(self, again: set[str]) -> None:
        if not again:  # another process may be adding to the file
            return
        units = {line["unit"] for line in self.lines if line.get("test") in again}
        self.lines = [
            line for line in self.lines if line.get("test") not in again and line.get("finished") not in units
        ]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def run_unit(folder: Path, unit: str, device: str, results: Results, limits: Limits) -> None:
    """Run the tests of a file or class on a device until each has an outcome, in one child unless it dies."""
    while not results.finished(unit, device):
        with tempfile.TemporaryDirectory() as scratch:
            ended = _child(folder, unit, device, list(results.tests(unit, device)), Path(scratch), limits)
            written = Path(scratch) / "outcomes"
            lines = [json.loads(line) for line in written.read_text().splitlines()]
        tests = [{**line, "unit": unit, "device": device} for line in lines if "test" in line]
        open_test = lines[-1].get("started") if lines else None
        if open_test is not None:
            tests.append(
                {"unit": unit, "device": device, "test": open_test, "outcome": "failed", "error": ended}
            )
        results.add(tests)
        if open_test is None:  # pytest itself came to an end, or did not begin
            if not results.tests(unit, device):
                lost = {
                    "unit": unit,
                    "device": device,
                    "test": unit,
                    "outcome": "not collected",
                    "error": ended,
                }
                results.add([lost])
            results.add([{"finished": unit, "device": device}])


def _child(folder: Path, unit: str, device: str, done: list[str], scratch: Path, limits: Limits) -> str:
    """Run pytest on a unit, and return how it ended."""
    outcomes = scratch / "outcomes"
    outcomes.touch()
    (scratch / "done").write_text("\n".join(done))
    (scratch / "pytest.ini").write_text("[pytest]\n")  # the library's may ask for plugins that are not here
    (scratch / "sitecustomize.py").write_text(CHILD)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "library_outcomes", "-p", "no:cacheprovider"),
        *("-p", "no:mpsprobe", "-p", "no:randomly", "-c", str(scratch / "pytest.ini")),
        *("--rootdir", str(folder), unit),
    ]
    path = [str(scratch), str(_TOOLS), str(_TOOLS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **dict.fromkeys(_DEVICE_VARIABLES, device),
        "PYTHONPATH": os.pathsep.join(one for one in path if one),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "TMPDIR": str(scratch),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPSPROBE_SUITE_DEVICE": device,
        "MPSPROBE_SUITE_OUTCOMES": str(outcomes),
        "MPSPROBE_SUITE_DONE": str(scratch / "done"),
        "MPSPROBE_SUITE_EVERY": str(limits.every),
    }
    with (scratch / "output").open("w+") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        memory = int(limits.memory_gib * 2**30)
        resource.prlimit(child.pid, resource.RLIMIT_AS, (memory, memory))
        ended = _watch(child, outcomes, limits)
        with contextlib.suppress(ProcessLookupError):  # what its tests started and left
            os.killpg(child.pid, signal.SIGKILL)
        output.seek(0)
        last = [line for line in output.read().splitlines() if line.strip()][-1:]
    return ended or (f"ended with {child.returncode}: {last[0]}"[:300] if last else "ended without a word")


def _watch(child: subprocess.Popen[bytes], outcomes: Path, limits: Limits) -> str:
    """Wait for a child; return `hung` if a test took too long, `died` if a signal ended it, else an empty text."""
    size, since = 0, time.monotonic()
    while child.poll() is None:
        time.sleep(0.2)
        if outcomes.stat().st_size != size:
            size, since = outcomes.stat().st_size, time.monotonic()
        if time.monotonic() - since > limits.seconds + (0 if size else _COLLECTING):
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return "hung"
    return "died" if child.returncode < 0 else ""


def units_of(folder: Path, tests: list[str]) -> list[str]:
    """Return the tests that each run in a child of their own, after expanding patterns in the names of files.

    Raises:
        SystemExit: The folder has no file that a pattern names.
    """
    found: list[str] = []
    for test in tests:
        file, mark, name = test.partition("::")
        files = sorted(str(one.relative_to(folder)) for one in folder.glob(file))
        if not files:
            raise SystemExit(f"{folder} has no {file}: give the library's source distribution or checkout.")
        found += [f"{one}{mark}{name}" for one in files]
    return found


def kind_of(library: str, test: str, emulated: dict[str, Any], known: list[Difference]) -> tuple[str, str]:
    """Return the kind of a difference and its explanation.

    Args:
        library: The library's name.
        test: The test's name in pytest.
        emulated: Its outcome on the emulated device.
        known: The differences that are explained.
    """
    error = emulated.get("error", "")
    if emulated.get("out_of_reach"):
        return REACH, error
    for one in known:
        if one.library == library and re.search(one.test, test) and re.search(one.error, error):
            return one.kind, one.why
    if emulated.get("refused"):
        return LIMIT, error
    return UNEXPLAINED, f"{test.rpartition('::')[2]}: {error}"


def table(library: str, units: list[str], results: Results) -> str:
    """Return the Markdown table of a library, and the list of its differences."""
    known = toml.load(_DIFFERENCES, Differences).difference
    rows: list[collections.Counter[str]] = []
    why: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    lost: list[dict[str, Any]] = []
    for unit in units:
        cpu, mps = (results.tests(unit, device) for device in _DEVICES)
        row: collections.Counter[str] = collections.Counter()
        lost += [line for line in (*cpu.values(), *mps.values()) if line["outcome"] == _LOST]
        for test in cpu.keys() & mps.keys():
            before, after = cpu[test]["outcome"], mps[test]["outcome"]
            if after in ("passed", "skipped", "expected failure") or before == after:
                row[f"{before}/{after}"] += 1
                continue
            kind, explanation = kind_of(library, test, mps[test], known)
            row[kind if before == "passed" else f"not run/{kind}"] += 1
            why[kind, explanation].append(f"{Path(unit.partition('::')[0]).stem} {test.rpartition('::')[2]}")
        row["one device only"] = len(cpu.keys() ^ mps.keys())
        rows.append(row)
    lines = [
        "| " + " | ".join(["", *_SAME, *KINDS]) + " |",
        "|---" * (1 + len(_SAME) + len(KINDS)) + "|",
    ]
    total: collections.Counter[str] = collections.Counter()
    for unit, row in zip(units, rows, strict=True):
        total += row
        lines.append(_row(Path(unit.partition("::")[0]).stem.removeprefix("test_"), row))
    lines.append(_row("**all**", total))
    lines.append("")
    for (kind, explanation), tests in sorted(
        why.items(), key=lambda one: (KINDS.index(one[0][0]), -len(one[1]))
    ):
        lines.append(f"- {kind}, {len(tests)}: {explanation} ({', '.join(sorted(set(tests))[:4])})")
    lines += [f"- {_LOST} on {one['device']}: {one['test']}: {one['error']}" for one in lost]
    return "\n".join(lines) + "\n"


def _row(name: str, row: collections.Counter[str]) -> str:
    kinds = [row[one] + row[f"not run/{one}"] for one in KINDS]
    same, fail = row["passed/passed"], row["failed/failed"]
    alone = sum(count for key, count in row.items() if key.endswith("/passed")) - same
    rest = sum(row.values()) - same - alone - fail - sum(kinds)
    return "| " + " | ".join([name, *map(str, (same, alone, fail, rest, *kinds))]) + " |"


def main() -> int:
    """Run what has no outcome yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=("accelerate", "diffusers", "peft", "transformers"))
    parser.add_argument("folder", type=Path, help="its source distribution or checkout")
    parser.add_argument("tests", nargs="+", help="files, patterns of files or classes in it")
    parser.add_argument("--results", type=Path, required=True, help="the file of outcomes, in JSON lines")
    parser.add_argument("--again", action="store_true", help="run the tests that differ once more")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time")
    parser.add_argument("--shard", default="1/1", help="this part of the files or classes: 3/8")
    parser.add_argument("--every", type=int, default=1, help="run every Nth test of a file or class")
    parser.add_argument("--seconds", type=float, default=120, help="the longest that a test may take")
    parser.add_argument("--memory-gib", type=float, default=16, help="the most that a child may use")
    chosen = parser.parse_args()
    part, _, parts = chosen.shard.partition("/")
    folder = chosen.folder.resolve()
    units = units_of(folder, chosen.tests)[int(part) - 1 :: int(parts)]
    results = Results(chosen.results)
    if chosen.again:
        results.forget_differences()
    limits = Limits(chosen.seconds, chosen.memory_gib, chosen.every)
    with concurrent.futures.ThreadPoolExecutor(chosen.jobs) as pool:
        work = [
            pool.submit(run_unit, folder, unit, device, results, limits)
            for unit in units
            for device in _DEVICES
        ]
        for one in work:
            one.result()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in (chosen.library, "torch"))
    sys.stdout.write(f"{versions}\n\n{table(chosen.library, units, results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
