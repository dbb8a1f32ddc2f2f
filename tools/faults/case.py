"""One case of the campaign: its set-up, its call, and the expected outcome."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

#: The file that planted code writes, which proves that it ran. Planted code is `MARK`.
MARKER = "THIS-RAN"
#: A line of Python that leaves the marker in the case's folder.
MARK = "import os, pathlib; pathlib.Path(os.environ['FAULTS_FOLDER'], 'THIS-RAN').touch()\n"

#: Exit codes that docs/security.md documents.
PASSED, FAILED, USAGE, BLOCKED, HARNESS, CRASHED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


@dataclass(frozen=True)
class Outcome:
    """What a call of mpsprobe printed and wrote, and how it ended.

    Attributes:
        code: The exit status; negative for a signal.
        out: The output on stdout.
        err: The output on stderr.
        folder: The case's folder, which was also the working directory.
        seconds: The wall time in seconds.
        survivors: The command lines of processes that the call left running.
    """

    code: int
    out: str
    err: str
    folder: Path
    seconds: float
    survivors: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return stdout and stderr, one after the other."""
        return self.out + self.err

    @cached_property
    def run(self) -> dict[str, Any] | None:
        """Return the run's document in `out/` of the case's folder; None when there is none."""
        path = self.folder / "out" / "run.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def status(self, check: str) -> str:
        """Return the status of one check of the run; `""` when there is no such check."""
        checks = self.run["checks"] if self.run else []
        return next((one["status"] for one in checks if one["id"] == check), "")

    def message(self, check: str) -> str:
        """Return the message of one check of the run; `""` when there is no such check."""
        checks = self.run["checks"] if self.run else []
        return next((one["message"] for one in checks if one["id"] == check), "")


def _nothing(_folder: Path) -> None:
    """Do nothing: the case needs no files of its own."""


@dataclass(frozen=True)
class Case:
    """One call of mpsprobe under a fault, with the accepted outcome.

    Strings of `argv` and `env` may hold `{folder}`, which becomes the case's folder. A `run` gets `--output out`
    unless it has its own `--output`.

    Attributes:
        name: A name that is unique in its group.
        argv: The arguments of `mpsprobe`.
        exits: The accepted exit codes.
        says: A regular expression that the output must match; `""` for none.
        silent: A regular expression that the output must not match; `""` for none.
        prepare: A function that makes the files of the case in its folder, the working directory of the call.
        env: Environment variables in addition to the campaign's; None removes one.
        during: A function that is called with the process and the folder as soon as it runs, to send signals or
            close pipes; None for none.
        check: A function that checks anything else, and returns what is wrong, or `""`; None for none.
        limit_s: The seconds after which the call is killed, and counts as wrong.
        runs_code: Whether planted code may run (the user consented), so that the marker may exist.
        lists_checks: Whether a run is expected to write a document in `out/`.
        short: Whether CI runs it.
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
