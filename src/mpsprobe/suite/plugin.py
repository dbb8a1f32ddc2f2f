"""The pytest plugin: options, phase markers, the journal, and how a check becomes a test's outcome.

Every pytest of an environment in which mpsprobe is installed loads it. So it imports little, prefixes its options,
and does nothing until tests of the suite are collected.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from mpsprobe import options
from mpsprobe.errors import MpsprobeError, first_line
from mpsprobe.quantities import printable
from mpsprobe.run import Phase, Status
from mpsprobe.run.own_file import identity

if TYPE_CHECKING:
    from mpsprobe.phases.check import CheckSpec, Result
    from mpsprobe.suite.run_in_progress import RunInProgress

pytest_plugins = ["mpsprobe.suite.fixtures", "mpsprobe.suite.op_items"]

session_key: pytest.StashKey[RunInProgress] = pytest.StashKey()
_result: pytest.StashKey[Result] = pytest.StashKey()

#: The category of each status in pytest's summary, and its letter and word in the output.
_SHOWN: dict[Status, tuple[str, str, str]] = {
    Status.WARN: ("passed", "w", "WARN"),
    Status.BLOCKED: ("skipped", "b", "BLOCKED"),
    Status.UNKNOWN: ("skipped", "?", "UNKNOWN"),
    Status.SKIPPED: ("skipped", "s", "SKIPPED"),
    Status.FAIL: ("failed", "F", "FAILED"),
    Status.TIMEOUT: ("failed", "T", "TIMEOUT"),
    Status.CRASHED: ("failed", "C", "CRASHED"),
    Status.ERROR: ("error", "E", "ERROR"),
}


class CheckFailed(AssertionError):  # noqa: N818 - it is an outcome of the target, not an error of the program
    """A check of the suite did not pass; shown as its message, without a traceback of mpsprobe."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite, prefixed because other plugins have a --device too."""
    group = parser.getgroup("mpsprobe", "mpsprobe: will this model run on that Mac?")
    for one in options.OPTIONS:
        what: dict[str, Any] = {"help": one.help}
        if one.is_switch:
            what |= {"action": "store_true", "default": None}
        elif one.type is bool:
            what |= {"choices": ["0", "1"]}
        else:
            what |= {"metavar": one.metavar, "type": one.type}
        group.addoption(f"--mpsprobe-{one.dashed}", **what)
        if one.from_files:
            parser.addini(f"mpsprobe_{one.name}", one.help, default="")
    group.addoption("--mpsprobe-checks", metavar="ID,ID", help="only the checks with these ids")
    group.addoption("--mpsprobe-journal", metavar="FILE", help="append every check to this journal")
    group.addoption("--mpsprobe-report", metavar="DIR", help="write run.json and the reports there")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers of the phases and stages."""
    for phase in Phase:
        config.addinivalue_line("markers", f"{phase.marker}: mpsprobe {phase.label}")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Prepare a supervised run: make it independent of its stdout, and postpone imports that it may not need."""
    if session.config.getoption("--mpsprobe-journal"):
        from mpsprobe.models import late_imports

        _keep_writing(session.config)
        late_imports.postpone()


class _Lasting(io.TextIOWrapper):
    """A stream for pytest's output that survives a target that closes stdout, and writes into no file of the target.

    Otherwise pytest's lines could go into such a file: one that is opened after `os.close(1)` gets the number 1.
    """

    def __init__(self, file: TextIO) -> None:
        super().__init__(io.BytesIO())
        self._there: TextIO = file
        self._identity = self._behind()

    def _behind(self) -> tuple[int, int] | None:
        try:
            return identity(self._there.fileno())
        except (OSError, ValueError):
            return None

    def write(self, text: str) -> int:
        try:
            return self._there.write(text) if self._behind() == self._identity else len(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._behind() == self._identity:
                self._there.flush()


def _keep_writing(config: pytest.Config) -> None:
    """Let a supervised run continue when its stdout cannot be written; the supervisor reads the journal."""
    writer = config.get_terminal_writer()
    writer._file = _Lasting(writer._file)


def spec_of(item: pytest.Item) -> CheckSpec[Any] | None:
    """Return the check that a test of the suite makes; None for other tests."""
    callspec = getattr(item, "callspec", None)
    check = callspec.params.get("check") if callspec is not None else None
    if check is None or "mpsprobe.phases.check" not in sys.modules:
        return None
    return check if isinstance(check, sys.modules["mpsprobe.phases.check"].CheckSpec) else None


def settings_of(config: pytest.Config) -> options.Settings:
    """Return the options of this pytest run: from its command line, its ini file, then pyproject.toml.

    A supervised child gets all of them on its command line, and reads no file.

    Raises:
        UsageError: The options contradict each other, or a file holds a value that cannot be used.
    """
    given: dict[str, options.Value] = {}
    for one in options.OPTIONS:
        value = config.getoption(f"--mpsprobe-{one.dashed}")
        given[one.name] = value == "1" if isinstance(value, str) and one.type is bool else value
    sources = [options.OptionSource("", given)]
    if not config.getoption("--mpsprobe-journal"):
        sources += [_of_ini(config), options.of_project(config.rootpath, code=True)]
        if names_stage(config, Phase.TRAINING):
            sources.append(options.OptionSource("-m train", {"train": "full"}))
    return options.settings(*sources)


def names_stage(config: pytest.Config, phase: Phase) -> bool:
    """Return whether `-m` names the marker of a stage without `not` before it."""
    words = (config.option.markexpr or "").replace("(", " ").replace(")", " ").split()
    return phase.marker in words and ("not", phase.marker) not in itertools.pairwise(words)


def _of_ini(config: pytest.Config) -> options.OptionSource:
    """Return the options that pytest's own configuration file sets."""
    file = str(config.inipath or "pytest's ini file")
    texts = {one: config.getini(f"mpsprobe_{one.name}") for one in options.OPTIONS if one.from_files}
    found = {one.name: one.read(text, f"{file}: mpsprobe_{one.name}") for one, text in texts.items() if text}
    return options.OptionSource(file, found)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the suite's tests by phase within the positions that they occupy; other tests keep their place."""
    _select(config, items)
    places = [index for index, item in enumerate(items) if spec_of(item) is not None]
    ordered = sorted((items[index] for index in places), key=lambda item: _spec(item).phase.order)
    for index, item in zip(places, ordered, strict=True):
        # The target's warnings are findings about the target, not failures of this test run.
        item.add_marker(pytest.mark.filterwarnings("default"))
        items[index] = item


def _select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect checks that `--mpsprobe-checks` does not name, and training checks where no training is requested."""
    chosen = config.getoption("--mpsprobe-checks")
    specs = [(item, spec) for item in items if (spec := spec_of(item)) is not None]
    left_out = {item for item, spec in specs if chosen and spec.id not in chosen.split(",")}
    steps = {item for item, spec in specs if spec.phase is Phase.TRAINING}
    if steps and not _trains(config):
        left_out |= steps
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


def _trains(config: pytest.Config) -> bool:
    try:
        return settings_of(config).train is not None
    except MpsprobeError:  # reported where the run begins
        return False


def _spec(item: pytest.Item) -> CheckSpec[Any]:
    spec = spec_of(item)
    assert spec is not None
    return spec


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the run when tests of the suite were collected, unless pytest only lists them.

    Raises:
        pytest.UsageError: The options, the target's name or an expectation file cannot be used.
    """
    specs = [spec for item in session.items if (spec := spec_of(item)) is not None]
    config = session.config
    if not specs or config.option.collectonly:
        return
    from mpsprobe.ops import expectations
    from mpsprobe.suite.run_in_progress import RunInProgress

    report, journal = config.getoption("--mpsprobe-report"), config.getoption("--mpsprobe-journal")
    known = [config.getoption(f"--mpsprobe-{name}-file") for name in ("xfails", "skips")]
    try:
        settings = settings_of(config)
        files = expectations.read(*(Path(name) if name else None for name in known))
        config.stash[session_key] = RunInProgress(
            settings,
            specs,
            journal=Path(journal) if journal else None,
            report=Path(report) if report else None,
            command=sys.argv,
            expectations=files,
        )
    except MpsprobeError as problem:
        raise pytest.UsageError(str(problem)) from problem
    if journal and hasattr(signal, "SIGUSR1"):
        # The supervisor asks a hung child where it hangs before it kills it.
        faulthandler.register(signal.SIGUSR1, all_threads=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Write the check's beginning and end to the journal, and set its limit before pytest-timeout reads it."""
    spec, session = spec_of(item), item.config.stash.get(session_key, None)
    if spec is None or session is None:
        return (yield)
    limit = session.limit(spec.phase)
    item.add_marker(pytest.mark.timeout(limit))
    session.begin(spec, limit)
    try:
        return (yield)
    finally:
        if _result in item.stash:
            session.end(spec, item.stash[_result])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Store the result of a check whose test raised, and set pytest's outcome from the check's result."""
    report = yield
    spec = spec_of(item)
    if spec is None:
        return report
    if call.excinfo is not None and not _settled(item):
        item.stash[_result] = _what_happened(spec, call, item.config.stash.get(session_key, None))
    if (call.when == "call" or call.excinfo is not None) and _result in item.stash:
        _show(report, item, item.stash[_result])
    return report


def _settled(item: pytest.Item) -> bool:
    """Return whether the check had set its result before it raised, so that the exception only reports it."""
    return _result in item.stash


def _what_happened(
    spec: CheckSpec[Any], call: pytest.CallInfo[None], session: RunInProgress | None
) -> Result:
    """Return the result of a check whose test raised.

    It is the link's failure, blocked by an earlier phase or by a broken installation, timed out, failed by the
    target's code, or an error of mpsprobe.
    """
    from mpsprobe.phases import target_code
    from mpsprobe.phases.check import LinkFailed, Result
    from mpsprobe.trace import flight

    assert call.excinfo is not None
    problem = call.excinfo.value
    if isinstance(problem, LinkFailed):
        # Raised by a fixture, it is the link's failure; raised within a check, it is that check's own.
        if call.when == "call" or (spec.phase is problem.phase and spec.link):
            return problem.result
        first = problem.result.message.rstrip(".")
        return Result(Status.BLOCKED, f"blocked by {problem.phase.label}: {first}.", blocked_by=problem.phase)
    if target_code.is_limit(problem):
        traceback_text = (
            flight.last_ops(session.flight, raised=True)
            if session is not None and session.flight is not None
            else ""
        )
        return Result(Status.TIMEOUT, f"{first_line(problem)}.", output=traceback_text)
    if target_code.is_of_target(problem):
        return target_code.raised(problem, spec.title, None, "host")
    lines = traceback.format_exception(problem)
    if (found := target_code.surroundings_of(problem)) is not None:
        return Result(Status.BLOCKED, found.what, found.hint, output="".join(lines)[-6000:])
    return Result(
        Status.ERROR,
        f"mpsprobe failed: {type(problem).__name__}: {first_line(problem)}",
        "This says nothing about the model. Please report it, with the output.",
        output="".join(lines)[-6000:],
    )


def _show(report: pytest.TestReport, item: pytest.Item, result: Result) -> None:
    """Set the outcome and the text of pytest's report from a result."""
    report.mpsprobe_status = result.status.value  # type: ignore[attr-defined]  # plain, for pytest-xdist
    text = printable(f"{result.status.value}: {result.message}" if result.message else result.status.value)
    if result.status in (Status.BLOCKED, Status.UNKNOWN, Status.SKIPPED):
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (path, (line or 0) + 1, text)
    elif result.status in (Status.PASS, Status.WARN):
        report.outcome = "passed"
    else:
        report.outcome = "failed"
        remedy = f"\n  {result.remedy}" if result.remedy else ""
        output = f"\n{result.output}" if result.output else ""
        report.longrepr = f"{text}{printable(remedy + output)}"


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Return pytest's category, letter and word for a status of mpsprobe; None for other tests, and for a pass."""
    status = getattr(report, "mpsprobe_status", None)
    return _SHOWN.get(Status(status)) if status is not None else None


@pytest.fixture
def mps_judge(request: pytest.FixtureRequest) -> Callable[[CheckSpec[Any], Any], None]:
    """Provide a function that makes a check on its link, stores the result, and passes, skips or fails the test."""

    def judge(spec: CheckSpec[Any], link: Any) -> None:
        __tracebackhide__ = True
        from mpsprobe.phases import target_code
        from mpsprobe.supervision.child import UserInterrupt

        pid = os.getpid()
        interrupt = UserInterrupt()
        try:
            with interrupt:
                result = spec(link)
        except BaseException as problem:
            # An exception that would end pytest, or count as a skip, is the target's own where its code raised it.
            ours = isinstance(problem, Exception) or target_code.is_limit(problem)
            if ours or interrupt.is_behind(problem) or not target_code.is_of_target(problem):
                raise
            result = target_code.raised(problem, spec.title, None, "host")
        finally:
            target_code.end_fork(pid)
        request.node.stash[_result] = result
        if result.status in (Status.BLOCKED, Status.UNKNOWN, Status.SKIPPED):
            pytest.skip(result.message)
        if result.status not in (Status.PASS, Status.WARN):
            raise CheckFailed(result.message)

    return judge


@pytest.fixture(scope="session")
def mps_session(request: pytest.FixtureRequest) -> RunInProgress:
    """Provide the run in progress: its settings, its target and its journal."""
    return request.config.stash[session_key]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the run, and write the reports that were requested."""
    ours = session.config.stash.get(session_key, None)
    if ours is not None:
        ours.finish()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the headline of the run, and the paths of its reports."""
    ours = config.stash.get(session_key, None)
    if ours is not None and ours.run.checks:
        from mpsprobe.report import verdict

        terminalreporter.section("mpsprobe")
        terminalreporter.line(printable(verdict(ours.run).sentence))
        for path in ours.written:
            terminalreporter.line(printable(f"report: {path}"))
