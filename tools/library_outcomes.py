"""A pytest plugin that records the outcome of each test, on the CPU or on the emulated device.

`tools/library_suites.py` starts pytest with it (`-p library_outcomes`) in a child process. Because this may crash
or hang, a line is written before each test and one after it. Four variables state the device
(`MPSPROBE_SUITE_DEVICE`), the file to write (`MPSPROBE_SUITE_OUTCOMES`), the share of the tests
(`MPSPROBE_SUITE_EVERY`: 5 for every fifth), and a file with the tests that are done already, one a line
(`MPSPROBE_SUITE_DONE`).
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import random
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from mpsprobe import emulate
from mpsprobe.device.virtual.observer import Finding
from mpsprobe.errors import VirtualDeviceError

MACOS = "15.5"
_SEED = 14
#: Findings that are no failures.
_HARMLESS = ("fallback", "compile")
_LONGEST = 400

_findings: list[Finding] = []
if os.environ.get("MPSPROBE_SUITE_DEVICE") == "mps":
    # before any test module is imported: they choose their device then
    platform.mac_ver = lambda *_args, **_kwargs: (MACOS, ("", "", ""), "arm64")
    _context = emulate(macos=MACOS, fallback=False)
    _findings = _context.__enter__().findings
    atexit.register(_context.__exit__, None, None, None)
    # a Python that a test starts gets the device, too (CHILD in peer_suite.py)
    os.environ["MPSPROBE_PEER_CHILD"] = "1"


class Outcomes:
    """Write a line of JSON before and after each test.

    Attributes:
        path: The file that the lines are appended to.
        current: What is known so far of the test that runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current: dict[str, Any] = {}
        self._before = 0
        self._start = 0.0

    @pytest.hookimpl(trylast=True)  # after -k and the library's own selection
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = set(Path(os.environ["MPSPROBE_SUITE_DONE"]).read_text().splitlines())
        every = int(os.environ["MPSPROBE_SUITE_EVERY"])
        chosen = [one for one in items[::every] if one.nodeid not in done]
        config.hook.pytest_deselected(items=[one for one in items if one not in chosen])
        items[:] = chosen

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.current = {"test": nodeid, "outcome": "passed"}
        self._before, self._start = len(_findings), time.monotonic()
        self._write({"started": nodeid})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        # many tests draw their inputs without a seed; the CPU and the device must get the same
        random.seed(_SEED)
        numpy.random.seed(_SEED)
        torch.manual_seed(_SEED)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:  # of a test's three parts and of its subtests
        report: pytest.TestReport = yield
        if report.failed and "error" not in self.current:
            self.current["outcome"] = "failed"
            if call.excinfo is not None:
                self.current.update(described(call.excinfo.value))
        elif report.skipped and self.current["outcome"] == "passed":
            self.current["outcome"] = "expected failure" if hasattr(report, "wasxfail") else "skipped"
            self.current["error"] = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
        return report

    def pytest_runtest_logfinish(self) -> None:
        self.current["seconds"] = round(time.monotonic() - self._start, 2)
        new = [one for one in _findings[self._before :] if one.kind not in _HARMLESS]
        self.current["findings"] = sorted({f"{one.kind} {one.op}: {one.message}"[:_LONGEST] for one in new})
        self._write(self.current)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            error = str(report.longrepr).strip().splitlines() or [""]
            self._write({"test": report.nodeid, "outcome": "not collected", "error": error[-1][:_LONGEST]})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def described(problem: BaseException) -> dict[str, Any]:
    """Return the facts about a failure by which its kind is determined.

    Returns:
        `error`, the type and the beginning of the message; `where`, the innermost line of code; `refused`, whether
        the emulated device raised this exception or one that led to it; `out_of_reach`, whether one of these is a
        `VirtualDeviceError`, which says that the emulation cannot go on.
    """
    chain: list[BaseException] = []
    one: BaseException | None = problem
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    said = {finding.message for finding in _findings if finding.kind not in _HARMLESS}
    frame = problem.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    text = " | ".join(line.strip() for line in str(problem).strip().splitlines() if line.strip())
    return {
        "error": f"{type(problem).__name__}: {text}"[:_LONGEST],
        "where": f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else "",
        "refused": any(str(one) in said for one in chain),
        "out_of_reach": any(isinstance(one, VirtualDeviceError) for one in chain),
    }


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin, if `tools/library_suites.py` started this pytest."""
    if "MPSPROBE_SUITE_OUTCOMES" in os.environ:
        config.pluginmanager.register(Outcomes(Path(os.environ["MPSPROBE_SUITE_OUTCOMES"])))
