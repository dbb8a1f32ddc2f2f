"""Guard the target's own code: what it raises is a finding about the target, with its line."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

from mpsprobe.errors import HarnessError, MpsprobeError, OutOfReachError, SurroundingsError, text_of
from mpsprobe.knowledge.explain import explain
from mpsprobe.models.weightless.unfed import next_step
from mpsprobe.phases.check import LinkFailed, Result
from mpsprobe.quantities import cut
from mpsprobe.run import Evidence, Phase, Status
from mpsprobe.supervision import surroundings
from mpsprobe.supervision.child import UserInterrupt
from mpsprobe.trace.source import line_of

#: The folder of the default target.
_EXAMPLE = "tiny_drive"
#: The number of lines of a traceback in a check's output; the innermost frames matter most.
_OUTPUT_LINES = 40
#: The greatest length of an error in a message, in characters.
_LONG = 240
_PACKAGE = Path(__file__).resolve().parents[1]
#: Files of the harness that raise inside the target's code when its time limit has passed.
_TIMERS = ("pytest_timeout.py",)


class target_code:  # noqa: N801 - used as a context manager, like contextlib's
    """Turn whatever the block raises into the failure of a phase's link.

    Every exception counts as the target's, including those that would end Python or pytest. Only a failed link, the
    time limit of the check, an interrupt by the user and a `HarnessError` pass through unchanged. A copy of the
    process that the target forked ends here.

    Args:
        phase: The phase whose link is being made.
        doing: What is being done, for the message, such as `"loading"`.
        evidence: The evidence of a failure here.
        device: The device of a failure here.

    Raises:
        LinkFailed: The target's code raised. Its result is blocked where the installation is at fault, and unknown
            where the emulation does not reach.
    """

    def __init__(self, phase: Phase, doing: str, evidence: Evidence, device: str) -> None:
        self._phase, self._doing, self._evidence, self._device = phase, doing, evidence, device
        self._interrupt = UserInterrupt()
        self._pid = os.getpid()

    def __enter__(self) -> None:
        self._interrupt.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interrupt.__exit__()
        end_fork(self._pid)
        if problem is None or isinstance(problem, LinkFailed):
            return
        if is_limit(problem) or self._interrupt.is_behind(problem):
            return
        if isinstance(problem, HarnessError):
            return
        raise LinkFailed(self._phase, self._result(problem)) from problem

    def _result(self, problem: BaseException) -> Result:
        if isinstance(problem, SurroundingsError):
            return Result(Status.BLOCKED, problem.what, problem.hint, evidence=Evidence.MEASURED)
        if isinstance(problem, OutOfReachError):  # a limit of the emulation, not of the target
            return Result(
                Status.UNKNOWN,
                f"{self._doing}: {problem.what}",
                problem.hint,
                evidence=self._evidence,
                device=self._device,
            )
        if isinstance(problem, MpsprobeError):  # an adapter has worded it already
            return Result(
                Status.FAIL, problem.what, problem.hint, evidence=self._evidence, device=self._device
            )
        if (found := surroundings_of(problem)) is not None:
            return Result(
                Status.BLOCKED,
                found.what,
                found.hint,
                evidence=Evidence.MEASURED,
                output=_traceback(problem),
            )
        return raised(problem, self._doing, self._evidence, self._device)


def raised(problem: BaseException, doing: str, evidence: Evidence | None, device: str) -> Result:
    """Return the failed result for an exception of the target's code, with its line, advice and traceback."""
    where = line_of(problem.__traceback__)
    name = type(problem).__name__
    return Result(
        Status.FAIL,
        f"{doing}: {name}: {_gist(problem)}{f' (at {where})' if where else ''}",
        next_step(problem) or _fix(problem),
        evidence=evidence,
        device=device,
        output=_traceback(problem),
    )


def is_limit(problem: BaseException) -> bool:
    """Return whether an exception comes from the timer of a check, which raises inside whatever code is running."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(problem.__traceback__)]
    return any(Path(name).name in _TIMERS for name in frames)


def is_of_target(problem: BaseException) -> bool:
    """Return whether a frame of an exception is a target's: outside mpsprobe, Python and installed packages."""
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    ours = (str(_PACKAGE), *libraries, "<")
    names = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(problem.__traceback__)]
    return any(not name.startswith(ours) and "site-packages" not in Path(name).parts for name in names)


def end_fork(pid: int) -> None:
    """End this process at once unless its id is `pid`: the target forked it, and only the original may report."""
    if os.getpid() != pid:
        os._exit(1)


def surroundings_of(problem: BaseException) -> SurroundingsError | None:
    """Return the fault of the installation behind an exception; None where there is none, or the target raised."""
    if is_of_target(problem):
        return None
    if not isinstance(problem, (ImportError, AttributeError, RuntimeError, OSError)):
        return None
    return surroundings.fault(f"{type(problem).__name__}: {text_of(problem)}")


def _traceback(problem: BaseException) -> str:
    try:
        formatted = traceback.TracebackException.from_exception(problem)
        _hide_ours(formatted)
        lines = "".join(formatted.format())
    except BaseException as worse:  # an exception of the target may do anything when it is inspected
        lines = f"{type(problem).__name__} (its traceback cannot be printed: {type(worse).__name__})"
    return "\n".join(lines.rstrip().splitlines()[-_OUTPUT_LINES:])


def _gist(problem: BaseException) -> str:
    """Return the first line of an error, or the first sentence of a long line; the traceback has the rest."""
    first = (text_of(problem).strip().splitlines() or [""])[0]
    sentence, end, _ = first.partition(". ")
    short = sentence + end.rstrip() if len(first) > _LONG else first
    return cut(short, 2 * _LONG, "...")


def _fix(problem: BaseException) -> str:
    """Return the first fix that `mpsprobe explain` finds for an error; empty for an unknown one."""
    found = explain(f"{type(problem).__name__}: {text_of(problem)}").findings
    return found[0].fix if found else ""


def _hide_ours(formatted: traceback.TracebackException | None) -> None:
    """Remove the frames of mpsprobe from an exception and its causes, unless there are no others.

    The default target is part of the package, but counts as a target.
    """
    while formatted is not None:
        kept = [
            frame
            for frame in formatted.stack
            if not frame.filename.startswith(str(_PACKAGE)) or _EXAMPLE in Path(frame.filename).parts
        ]
        if kept:
            formatted.stack = traceback.StackSummary.from_list(kept)
        formatted = formatted.__cause__ or formatted.__context__
