"""`mpsprobe run`: the suite on a model, in a supervised child process, with a report at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.options import Group, Settings
from mpsprobe.run import Check, Phase, Status, exit_code, journal

#: What a phase is called on the command line: `3`, `download`, `ops`.
_PHASES = {
    **{phase.value: phase for phase in Phase},
    **{str(phase.order): phase for phase in Phase if phase.order <= 6},
}
_SIGNS = {
    Status.PASS: ("✓", "green"),
    Status.WARN: ("!", "yellow"),
    Status.FAIL: ("✗", "red"),
    Status.BLOCKED: ("■", "yellow"),
    Status.SKIPPED: ("-", None),
    Status.UNKNOWN: ("?", None),
    Status.CRASHED: ("☠", "red"),
    Status.TIMEOUT: ("⌛", "red"),
    Status.ERROR: ("E", "magenta"),
}


class Narrator:
    """Tells people of a run as it goes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._phase: Phase | None = None
        self._told: set[str] = set()

    def __call__(self, event: journal.Event) -> None:
        """One event of the journal."""
        if isinstance(event, journal.CheckEnded):
            self.check(event.check)
        elif isinstance(event, journal.Progress):
            self._sink.remark(f"    {event.text}")

    def check(self, check: Check) -> None:
        """One line a check; a blocked phase in one line."""
        if check.phase is not self._phase:
            self._phase = check.phase
            self._sink.remark(click.style(check.phase.label, bold=True))
        sign, colour = _SIGNS[check.status]
        if check.status is Status.BLOCKED:
            if f"{check.phase}{check.message}" in self._told:
                return
            self._told.add(f"{check.phase}{check.message}")
            self._sink.remark(f"  {click.style(sign, fg=colour)} {check.message}")
            return
        message = f"  {check.message}" if check.message else ""
        self._sink.remark(f"  {click.style(sign, fg=colour)} {check.title}{click.style(message, dim=True)}")
        if check.remedy and check.status in (Status.FAIL, Status.WARN):
            self._sink.remark(f"      mend: {check.remedy}")


def _folder(output: Path | None, run_id: str) -> Path:
    """Where the run writes: the folder asked for, or reports/runs/ID with reports/latest pointing there."""
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        return output.resolve()
    reports = Path("reports")
    folder = reports / "runs" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    latest, link = reports / "latest", reports / f".latest-{run_id}"
    if latest.is_symlink() or not latest.exists():
        link.symlink_to(Path("runs") / run_id, target_is_directory=True)
        link.replace(latest)
    else:
        raise UsageError(f"{latest}: exists and is not a link of mpsprobe's.", "Move it, or use --output.")
    return folder.resolve()


@click.command()
@takes(Group.TARGET, Group.DEVICE, Group.MAC, Group.RUN)
@click.option("--phase", "phases", multiple=True, metavar="N", help="1-6, ops or benchmark; repeatable.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the reports.")
@json_flag
@pass_sink
def command(sink: Sink, /, phases: tuple[str, ...], output: Path | None, settings: Settings) -> None:
    """Run the suite on MODEL, in a supervised child process, and write its report.

    MODEL is a repo id, a local folder, a class package.module:Class with --random-init, a file ./target.py of your own
    (which runs), or nothing for the default target.

    Exit codes: 0 pass, 1 fail, 2 usage, 3 blocked, 4 harness error, 5 crashed or timed out.
    """
    # Bad input is answered here, before a child is started for it.
    from mpsprobe import report
    from mpsprobe.models import targets
    from mpsprobe.supervision.supervisor import Supervisor

    unknown = [name for name in phases if name not in _PHASES]
    if unknown:
        raise UsageError(f"--phase {unknown[0]}: no such phase.", f"One of {', '.join(_PHASES)}.")
    if targets.needs_no_hub(settings):
        threads = targets.resolve(settings).profile.cpu_threads
        if threads:
            # Before the child imports torch: a pool of threads that spin costs a small target a fifth of its time.
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))

    folder = _folder(output, journal.new_run_id(journal.utc_now()))
    arguments = settings.arguments()
    if phases:
        arguments += ["-m", " or ".join(sorted({_PHASES[name].marker for name in phases}))]

    narrator = Narrator(sink)
    run = Supervisor(folder, narrator).run(arguments)
    run.command = ["mpsprobe", *sys.argv[1:]]
    for check in run.checks[len(run.checks) - _untold(run.checks) :]:
        narrator.check(check)
    paths = report.write(run, folder)
    report.append_summary(run)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        sink.remark(report.workflow_commands(run))
    headline = report.verdict(run)
    helps = f"fix: {headline.recipe}\n" if headline.recipe else ""
    sink.result(f"\n{headline.sentence}\n{helps}report: {paths['html']}", run)
    click.get_current_context().exit(exit_code(run))


def _untold(checks: list[Check]) -> int:
    """How many checks at the end were added by the replay of a cut-off run: nobody has told of them yet."""
    flying = next((i for i, c in enumerate(checks) if c.status in (Status.CRASHED, Status.TIMEOUT)), None)
    return 0 if flying is None else len(checks) - flying
