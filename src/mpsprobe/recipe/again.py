"""The same target once more with other settings, in a child process: how a recipe is verified."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mpsprobe.options import Settings
from mpsprobe.phases.refusals import Refusal
from mpsprobe.recipe.search import Setting, Tried, Try
from mpsprobe.run import Phase, Run, Status
from mpsprobe.supervision.supervisor import Supervisor

#: The check that lists what is refused, and the checks that stand for the links before it.
_ANSWER = "inference.refusals"
_ONLY = ["-m", "phase4 or phase5 or phase6", "-k", "load or prepare or runs or refusals"]


def retry(settings: Settings, progress: Callable[[str], None]) -> Try:
    """What runs the target of `settings` again on the virtual device, with some of them changed.

    Args:
        settings: of the run in progress.
        progress: told what is tried.
    """

    def run(changes: Sequence[Setting]) -> Tried:
        progress(f"trying it with {' and '.join(map(str, changes))}")
        fields: dict[str, Any] = {one.name: True if one.name == "fallback" else one.value for one in changes}
        changed = dataclasses.replace(settings, device="emulated", keep_going=True, **fields)
        with tempfile.TemporaryDirectory(prefix="mpsprobe-") as folder:
            return _answer(Supervisor(Path(folder), _nobody).run([*changed.arguments(), *_ONLY]))

    return run


def _answer(run: Run) -> Tried:
    check = next((one for one in run.checks if one.id == _ANSWER), None)
    if check is not None and check.status is Status.PASS:
        return Tried([])
    if check is None or check.table is None:
        failed = next((one for one in run.checks if one.status not in (Status.PASS, Status.WARN)), check)
        return Tried([], f"the second run gave no answer: {failed.message if failed else 'it ended early'}")
    rows = [dict(zip(check.table.columns, row, strict=True)) for row in check.table.rows]
    return Tried([_refusal(row) for row in rows])


def _refusal(row: dict[str, Any]) -> Refusal:
    """A row of the check's table as it was written."""
    phase = next(one for one in Phase if one.order == row["phase"])
    kind, op, source = str(row["kind"]), str(row["op"]), str(row["at"])
    return Refusal(phase, kind, op, str(row["what it says"]), str(row["sure"]), source, int(row["times"]))


def _nobody(_event: object) -> None:
    """Is told of the child's events."""
