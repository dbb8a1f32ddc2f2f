"""One case of the campaign: how it is set up, what is called, and what a right end is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

#: A file that planted code writes: the proof that it ran. Planted code is `MARK`.
MARKER = "THIS-RAN"
#: A line of Python that leaves the marker in the case's folder.
MARK = "import os, pathlib; pathlib.Path(os.environ['FAULTS_FOLDER'], 'THIS-RAN').touch()\n"

#: Exit codes that docs/security.md documents.
PASSED, FAILED, USAGE, BLOCKED, HARNESS, CRASHED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: exit status; negative for a signal.
        out: what was printed to stdout.
        err: what was printed to stderr.
        folder: the case's folder, which was also the working directory.
        seconds: wall time.
        survivors: command lines of processes that the call left behind.
    """

    code: int
    out: str
    err: str
    folder: Path
    seconds: float
    survivors: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Everything that was printed."""
        return self.out + self.err

    @cached_property
    def run(self) -> dict[str, Any] | None:
        """The run's document in `out/` of the case's folder; None when there is none."""
        path = self.folder / "out" / "run.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def status(self, check: str) -> str:
        """Return the status of one check of the run; `""` when it is not there."""
        checks = self.run["checks"] if self.run else []
        return next((one["status"] for one in checks if one["id"] == check), "")

    def message(self, check: str) -> str:
        """Return the message of one check of the run; `""` when it is not there."""
        checks = self.run["checks"] if self.run else []
        return next((one["message"] for one in checks if one["id"] == check), "")


def _nothing(_folder: Path) -> None:
    """Set nothing up."""


@dataclass(frozen=True)
class Case:
    """One call of mpsprobe with something wrong.

    Strings of `argv` and `env` may hold `{folder}`, which becomes the case's folder. A `run` gets `--output out`
    unless it has an `--output` of its own.

    Attributes:
        name: unique in its group.
        argv: arguments of `mpsprobe`.
        exits: exit codes that are right.
        says: a regular expression that must be found in what is printed; `""` for nothing in particular.
        silent: a regular expression that must not be found there.
        prepare: makes the files of the case in its folder, which is the working directory of the call.
        env: environment variables on top of the campaign's; None takes one away.
        during: called with the process and the folder as soon as it runs: sends signals, closes pipes.
        check: what else must hold; returns what is wrong, or `""`.
        limit_s: seconds after which the call is killed, and wrong.
        runs_code: planted code is allowed to run (the user consented), so the marker may be there.
        lists_checks: False where a run is not expected to leave a document in `out/`.
        short: among those that CI runs.
    """

    name: str
    argv: tuple[str, ...]
    exits: Set[int]
    says: str = ""
    silent: str = ""
    prepare: Callable[[Path], None] = _nothing
    env: Mapping[str, str | None] = field(default_factory=dict)
    during: Callable[[subprocess.Popen[bytes], Path], None] | None = None
    check: Callable[[Outcome], str] | None = None
    limit_s: float = 180.0
    runs_code: bool = False
    lists_checks: bool = True
    short: bool = False
