"""The part of the pytest plugin that makes a test for each op use on request."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

from mpsprobe.errors import MpsprobeError
from mpsprobe.run import Phase
from mpsprobe.suite.plugin import names_stage, session_key, settings_of, spec_of

if TYPE_CHECKING:
    from mpsprobe.phases.check import CheckSpec

#: The check of each op use, when tests of single op uses are requested.
_op_specs: pytest.StashKey[list[CheckSpec[Any]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for tests of single op uses, and for op checks that are known to fail or to crash."""
    group = parser.getgroup("mpsprobe")
    group.addoption(
        "--mpsprobe-ops",
        metavar="target|core|RUN.json",
        help="a test for each op use of the target (so does -m ops), of a general list, or of a run",
    )
    group.addoption("--mpsprobe-xfails-file", metavar="FILE", help="op checks that are known to fail")
    group.addoption("--mpsprobe-skips-file", metavar="FILE", help="op checks that are known to crash")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `each_op_use`."""
    config.addinivalue_line("markers", "each_op_use: mpsprobe: one test for each op use")


def _single_ops(config: pytest.Config) -> str:
    """Return which op uses get a test of their own: `"target"`, `"core"`, the path of a run's document, or `""`.

    There are many of them, and a target's must be recorded first, so they are made only on request. A supervised
    run has one check for all of them, within a time budget.
    """
    asked: str | None = config.getoption("--mpsprobe-ops")
    if config.getoption("--mpsprobe-journal"):
        return ""
    return asked or ("target" if names_stage(config, Phase.OPS) else "")


def _specs_of_ops(config: pytest.Config) -> list[CheckSpec[Any]]:
    """Return the check of each op use, made once; empty when they are not requested, or cannot be recorded.

    Raises:
        pytest.UsageError: The run's document, the target or the options cannot be used.
    """
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
        # pytest captures output while it collects a file, and drops it when collection succeeds.
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
        tell(f"mpsprobe: {problem}")  # the check of the recording reports the same, with its phase
        return []
    except MpsprobeError as problem:
        raise pytest.UsageError(str(problem)) from problem
    return list(bench.specs(listed.uses))


def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> list[pytest.Item] | None:
    """Leave out the test of single op uses when there are none, because an empty parameter set would be a skip."""
    # Only of functions: a class of another repository may run code, or raise, when it is asked for an attribute
    # (transformers' stand-ins for what is not installed do).
    marks = vars(obj).get("pytestmark") if type(obj) is FunctionType else None
    if isinstance(marks, list) and any(getattr(mark, "name", "") == "each_op_use" for mark in marks):
        return None if _specs_of_ops(collector.config) else []
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the test of single op uses with the check of each."""
    if metafunc.definition.get_closest_marker("each_op_use") is not None:
        specs = _specs_of_ops(metafunc.config)
        metafunc.parametrize("check", specs, ids=[spec.name for spec in specs])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the combined checks that tests of single op uses replace."""
    # Only where the suite was collected, because another repository's tests may have a marker `ops` too.
    if config.stash.get(_op_specs, []):
        _leave_out(config, items, _superseded(config))


def _superseded(config: pytest.Config) -> set[str]:
    """Return the names of the tests that tests of single op uses replace: the combined replay, or all checks of ops.

    All are replaced where the op uses are not the target's.
    """
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
    """Warn of ids in expectation files that match no check of a single op use."""
    ours = config.stash.get(session_key, None)
    single = [spec.id for spec in config.stash.get(_op_specs, [])]
    for id_ in ours.expectations.unused(single) if ours is not None and single else []:
        terminalreporter.line(f"warning: {id_}: an expectation file names it, and no op check has that id")
