"""The part of the pytest plugin that gives each op use a test of its own, where that is asked for."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mpsprobe.errors import MpsprobeError
from mpsprobe.run import Phase
from mpsprobe.suite.plugin import names_stage, session_key, settings_of, spec_of

if TYPE_CHECKING:
    from mpsprobe.phases.check import CheckSpec

#: A check for each op use, when tests of single op uses are wanted.
_op_specs: pytest.StashKey[list[CheckSpec[Any]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the per-op checks."""
    group = parser.getgroup("mpsprobe")
    group.addoption(
        "--mpsprobe-ops",
        metavar="target|core|RUN.json",
        help="a test for each op use of the target (so does -m ops), of a general list, or of a run",
    )
    group.addoption("--mpsprobe-xfails-file", metavar="FILE", help="op checks that are known to fail")
    group.addoption("--mpsprobe-skips-file", metavar="FILE", help="op checks that are known to crash")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "each_op_use: mpsprobe: one test for each op use")


def _single_ops(config: pytest.Config) -> str:
    """Return which op uses get a test of their own: `"target"`, `"core"`, a run's document, or `""`.

    They are many, and a target's must be recorded first: so only when they are asked for. A supervised run has
    one check for all of them, within a budget of time.
    """
    asked: str | None = config.getoption("--mpsprobe-ops")
    if config.getoption("--mpsprobe-journal"):
        return ""
    return asked or ("target" if names_stage(config, Phase.OPS) else "")


def _specs_of_ops(config: pytest.Config) -> list[CheckSpec[Any]]:
    """Return a check for each op use; none when they are not wanted or not known."""
    if _op_specs not in config.stash:
        config.stash[_op_specs] = _make_specs_of_ops(config)
    return config.stash[_op_specs]


def _make_specs_of_ops(config: pytest.Config) -> list[CheckSpec[Any]]:
    wanted = _single_ops(config)
    if not wanted:
        return []
    from mpsprobe.ops import bench
    from mpsprobe.suite import op_list

    def tell(text: str) -> None:
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        capture = config.pluginmanager.get_plugin("capturemanager")
        # What is written while pytest collects a file is captured, and dropped when that goes well.
        shown = capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext()
        if terminal is not None:
            with shown:
                terminal.ensure_newline()
                terminal.write_line(text)

    try:
        if wanted == "target":
            settings = settings_of(config)
            listed = op_list.of_target(settings, settings.arguments(), tell)
        else:
            listed = op_list.core() if wanted == "core" else op_list.of_run(Path(wanted))
    except op_list.RecordingFailedError as problem:
        tell(f"mpsprobe: {problem}")  # the check of the recording says the same, with the phase to blame
        return []
    except MpsprobeError as problem:
        raise pytest.UsageError(str(problem)) from problem
    return list(bench.specs(listed.uses))


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Leave the test of single op uses out when there are none: an empty set of parameters would be a skip."""
    marks = getattr(obj, "pytestmark", [])
    if isinstance(marks, list) and any(getattr(mark, "name", "") == "each_op_use" for mark in marks):
        return None if _specs_of_ops(collector.config) else []
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each op use."""
    if metafunc.definition.get_closest_marker("each_op_use") is not None:
        specs = _specs_of_ops(metafunc.config)
        metafunc.parametrize("check", specs, ids=[spec.name for spec in specs])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tests of single op uses make needless."""
    # Only where the suite was collected: another repository's tests may have a marker `ops` too.
    if config.stash.get(_op_specs, []):
        _leave_out(config, items, _superseded(config))


def _superseded(config: pytest.Config) -> set[str]:
    """Return the checks that tests of single op uses replace: the combined one; for a general list, all."""
    if _single_ops(config) == "target":
        return {"test_ops[replay]"}
    from mpsprobe.ops.checks import CHECKS

    return {f"test_ops[{check.name}]" for check in CHECKS}


def _leave_out(config: pytest.Config, items: list[pytest.Item], names: set[str]) -> None:
    left_out = [item for item in items if spec_of(item) is not None and item.name in names]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which ids of expectation files match nothing."""
    ours = config.stash.get(session_key, None)
    single = [spec.id for spec in config.stash.get(_op_specs, [])]
    for id_ in ours.expectations.unused(single) if ours is not None and single else []:
        terminalreporter.line(f"warning: {id_}: an expectation file names it, and no op check has that id")
