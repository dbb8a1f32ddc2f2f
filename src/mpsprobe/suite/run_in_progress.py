"""A run in progress inside the pytest process: its settings, target and journal, and the links made so far."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpsprobe import __version__, mac
from mpsprobe.models import targets
from mpsprobe.models.hub.client import DownloadProgress
from mpsprobe.ops.expectations import Expectations, Files
from mpsprobe.options import Settings
from mpsprobe.phases import target_code
from mpsprobe.phases.check import CheckSpec, LinkFailed, Result
from mpsprobe.run import DeviceChoice, Mac, Phase, Run, Target, own_file
from mpsprobe.run.journal import (
    CheckEnded,
    CheckStarted,
    Event,
    FileTransfer,
    Journal,
    Plan,
    Planned,
    Progress,
    Reading,
    RunEnded,
    RunFacts,
    RunStarted,
    Transfer,
    new_run_id,
    utc_now,
)
from mpsprobe.supervision.child import UserInterrupt
from mpsprobe.trace import flight

_DISTURBED = (
    "Code of the target closed descriptors that were not its own ({}). They were opened again; nothing of mpsprobe's "
    "went into another file."
)


class RunInProgress:
    """Fold events into a `Run`, and write them to the journal when there is one.

    Attributes:
        settings: The options of the run.
        target: The target that they name, with its profile.
        run: The document so far.
        written: The paths of the reports that were written at the end.
        flight: The file for the op in flight, beside the journal; None without a journal.
        expectations: The known failures on the target Mac; empty until that Mac is known.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[CheckSpec[Any]],
        *,
        journal: Path | None,
        report: Path | None,
        command: Sequence[str],
        expectations: Files | None = None,
    ) -> None:
        self.settings = settings
        self.expectations = Expectations()
        self._files = expectations or Files()
        self.target = targets.resolve(settings)
        self.written: list[Path] = []
        self.flight = journal.with_name(flight.FILE) if journal else None
        run_id = new_run_id(utc_now())
        self._journal = Journal(journal, run_id) if journal else None
        self._report = report
        self._made: set[Phase] = set()
        self._reading = Reading()
        now = utc_now()
        self._emit(
            RunStarted(
                Run(
                    mpsprobe=__version__,
                    id=run_id,
                    started=now,
                    command=list(command),
                    target=Target(
                        name=self.target.title, profile=self.target.profile.name, **self.target.plan
                    ),
                    host=mac.host(),
                    device=DeviceChoice(settings.device, "", ""),
                )
            )
        )
        self._emit(Plan([Planned(spec.id, spec.phase, spec.title) for spec in specs]))

    @property
    def run(self) -> Run:
        """Return the document so far."""
        assert self._reading.run is not None
        return self._reading.run

    def _emit(self, event: Event) -> None:
        self._reading.take(event)
        if self._journal is not None:
            self._journal.write(event)

    def limit(self, phase: Phase) -> float:
        """Return the time limit in seconds of a check of that phase, including links that must still be made."""
        profile = self.target.profile
        waiting = [p for p in Phase if p.order < phase.order and p.is_numbered and p not in self._made]
        return sum(profile.limit(p) for p in (*waiting, phase))

    def expected(self, mac: Mac) -> Expectations:
        """Return the expectations of the user's files for that Mac, and keep them as `expectations`."""
        self.expectations = self._files.on(mac)
        return self.expectations

    def begin(self, spec: CheckSpec[Any], limit_s: float) -> None:
        """Record in the journal that a check begins, with its time limit in seconds."""
        self._started = time.perf_counter()
        self._emit(CheckStarted(spec.id, limit_s))

    def end(self, spec: CheckSpec[Any], result: Result) -> None:
        """Record the result of a check in the run and in the journal."""
        self._emit(CheckEnded(spec.check(result, time.perf_counter() - self._started)))

    @contextmanager
    def making(self, phase: Phase) -> Iterator[None]:
        """Mark a phase's link as made if the block completes, and turn the target's exceptions into its failure.

        Raises:
            LinkFailed: The target raised outside of what its phase guards.
        """
        pid = os.getpid()
        interrupt = UserInterrupt()
        try:
            with interrupt:
                yield
        except LinkFailed:
            raise
        except BaseException as problem:
            ours = target_code.is_limit(problem) or not target_code.is_of_target(problem)
            if ours or interrupt.is_behind(problem):
                raise
            failure = target_code.raised(problem, f"phase {phase.order}", None, "host")
            raise LinkFailed(phase, failure) from problem
        finally:
            target_code.end_fork(pid)
        self._made.add(phase)

    def learnt(self, **facts: Any) -> None:
        """Record facts that have become known.

        Args:
            **facts: Fields of `journal.RunFacts`.
        """
        self._emit(RunFacts(**facts))

    def progress(self, text: str) -> None:
        """Record a line about the progress of a long step, for the terminal."""
        self._emit(Progress(text))

    def transferred(self, progress: DownloadProgress) -> None:
        """Record how many bytes of a download have arrived."""
        active = [
            FileTransfer(file.name, file.done, file.total, file.stage)
            for file in progress.files
            if file.stage != "waiting"
        ]
        self._emit(Transfer(progress.done, progress.total, progress.rate, progress.left_s, active))

    def _look_ahead(self) -> None:
        """Add the forecast and the routes to the run, where its op uses allow them.

        There are none for a shrunk target, for a device without MPS, or without a target Mac of known chip and memory.
        """
        mac, device = self.run.mac, self.run.device.used
        if self.settings.shrink or device not in ("mps", "emulated"):
            return
        if mac is None or mac.chip is None or mac.memory_gb is None:
            return  # there is no target Mac: phase 1 was not run, or none was named
        from mpsprobe.routes.commands import words_of
        from mpsprobe.routes.recommend import of_run

        if (outlook := of_run(self.run, words=words_of(self.settings))) is not None:
            self.learnt(outlook=outlook)

    def finish(self) -> None:
        """End the run: add forecast and routes, close the journal and write the reports that were requested."""
        self._look_ahead()
        if names := own_file.disturbed():
            self.learnt(limits=[*self.run.limits, _DISTURBED.format(", ".join(names))])
        self._emit(RunEnded(utc_now()))
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        # Under pytest-xdist every worker collects all tests, and one of them runs the suite's.
        if self._report is not None and self.run.checks:
            from mpsprobe import report

            self._report.mkdir(parents=True, exist_ok=True)
            self.written = list(report.write(self.run, self._report).values())
