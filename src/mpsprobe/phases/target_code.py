"""The target's own code runs here: what it raises is a finding about the target, with its line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mpsprobe.device.virtual.errors import OutOfReachError
from mpsprobe.errors import MpsprobeError
from mpsprobe.knowledge.explain import explain
from mpsprobe.models.weightless.unfed import next_step
from mpsprobe.phases.check import LinkFailed, Result
from mpsprobe.run import Evidence, Phase, Status
from mpsprobe.trace.source import line_of

#: Lines of a traceback kept in a check's output: the innermost frames are the ones that tell.
_OUTPUT_LINES = 40
#: Characters of an error that a message may have.
_LONG = 240


def _gist(problem: BaseException) -> str:
    """The first line of an error, of a long one its first sentence; the traceback beside it has all of it."""
    first = (str(problem).strip().splitlines() or [""])[0]
    sentence, end, _ = first.partition(". ")
    return sentence + end.rstrip() if len(first) > _LONG else first


def _mend(problem: BaseException) -> str:
    """What `mpsprobe explain` would say to do about an error; nothing for one it does not know."""
    found = explain(f"{type(problem).__name__}: {problem}").findings
    return found[0].fix if found else ""


@contextmanager
def target_code(phase: Phase, doing: str, evidence: Evidence, device: str) -> Iterator[None]:
    """Turn whatever the block raises into the failure of that phase's link.

    Args:
        phase: whose link is being made.
        doing: what was being done, for the message: `"loading"`.
        evidence: how a failure here is known.
        device: where.

    Raises:
        LinkFailed: the target's code raised. `SystemExit` counts: a model must not end the suite.
    """
    try:
        yield
    except OutOfReachError as problem:  # the emulation's limit: it says nothing of the target
        raise LinkFailed(
            phase,
            Result(
                Status.UNKNOWN, f"{doing}: {problem.what}", problem.hint, evidence=evidence, device=device
            ),
        ) from problem
    except MpsprobeError as problem:  # worded already, by an adapter
        raise LinkFailed(
            phase, Result(Status.FAIL, problem.what, problem.hint, evidence=evidence, device=device)
        ) from problem
    except (Exception, SystemExit) as problem:
        text = "".join(traceback.format_exception(problem)).rstrip().splitlines()
        where = line_of(problem.__traceback__)
        raise LinkFailed(
            phase,
            Result(
                Status.FAIL,
                f"{doing}: {type(problem).__name__}: {_gist(problem)}{f' (at {where})' if where else ''}",
                next_step(problem) or _mend(problem),
                evidence=evidence,
                device=device,
                output="\n".join(text[-_OUTPUT_LINES:]),
            ),
        ) from problem
