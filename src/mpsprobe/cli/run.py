"""`mpsprobe run`: run the suite on a model in a supervised child process, and write its report."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import click

from mpsprobe import launch
from mpsprobe.cli.options import takes
from mpsprobe.cli.progress import Narrator
from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.errors import MpsprobeError, UsageError
from mpsprobe.options import Group, Settings
from mpsprobe.places import near
from mpsprobe.run import Phase, Run, exit_code, journal

#: The folder of runs without --output: one folder for each run, and a link `latest`.
REPORTS = Path("reports")
#: The phases by their names on the command line: `3`, `download`, `ops`.
_PHASES = {
    **{phase.value: phase for phase in Phase},
    **{str(phase.order): phase for phase in Phase if phase.is_numbered},
}


def _folder(output: Path | None, run_id: str) -> Path:
    """Return the folder that the run writes to: the requested one, or reports/runs/ID.

    Raises:
        UsageError: The folder cannot be created.
    """
    folder = output if output is not None else REPORTS / "runs" / run_id
    latest = REPORTS / "latest"
    if output is None and latest.exists() and not latest.is_symlink():
        raise UsageError(f"{latest}: exists and is not a link of mpsprobe's.", "Move it, or use --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise UsageError(f"{folder}: cannot be made: {reason}.", "Use another --output.") from problem
    return folder.resolve()


def _point_latest_to(folder: Path) -> None:
    """Point reports/latest to a run whose report is written. A failure is ignored: the report exists anyway."""
    link = REPORTS / f".latest-{folder.name}"
    with contextlib.suppress(OSError):
        link.symlink_to(Path("runs") / folder.name, target_is_directory=True)
        link.replace(REPORTS / "latest")


def _forget_former(folder: Path) -> None:
    """Move an earlier run's report into `former/`: nobody shall take it for that of a run that cannot start."""
    from mpsprobe.report import FILES

    former = folder / "former"
    for name in FILES.values():
        with contextlib.suppress(OSError):
            if (folder / name).is_file():
                former.mkdir(exist_ok=True)
                (folder / name).replace(former / name)


def _written(run: Run, folder: Path, sink: Sink) -> Path:
    """Write the reports into the folder, or into a temporary one where it has become unusable."""
    from mpsprobe import report

    try:
        return report.write(run, folder)["html"]
    except UsageError as problem:
        elsewhere = Path(tempfile.mkdtemp(prefix="mpsprobe-report-"))
        sink.remark(f"{problem.what} The report is in {elsewhere}.")
        return report.write(run, elsewhere)["html"]


def _install_what_is_missing(settings: Settings, sink: Sink, *, yes: bool) -> None:
    """Print the pip command that satisfies the target's unmet requirements, and run it if the user agrees.

    Nothing is installed when every requirement is met or the user says no.

    Args:
        settings: The options of the run.
        sink: The sink that prints what will change.
        yes: Whether the user has already agreed.

    Raises:
        UsageError: No versions satisfy the requirements, there is no terminal to ask on, pip may not change
            this environment, or the installation failed.
    """
    from mpsprobe.mac import catalogue, facts
    from mpsprobe.models import targets
    from mpsprobe.phases import pins, requirements

    torch = requirements.installed_version("torch") or ""
    mac = catalogue.target_mac(
        facts.host(), torch, name=settings.mac, torch=settings.torch, macos=settings.macos
    )
    found = pins.of_target(targets.resolve(settings), mac)
    command = found.fix()
    if found.conflict:
        raise UsageError(f"--fix: no versions satisfy the requirements: {found.conflict}")
    if not command:
        sink.remark("--fix: nothing is to be installed.")
        return
    for pin in found.unmet:
        if not pin.on_mac:
            sink.remark(
                f"  {pin.name} {pin.found or 'is not installed'}, required {pin.required or 'in any version'}"
            )
    sink.remark(f"  {command}")
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            "--fix asks before it installs, and there is no terminal.",
            f"Give --yes too, or run it yourself: {command}",
        )
    _refuse_foreign_environment(command)
    question = f"Install this into {sys.prefix}?"
    if not yes and not click.confirm(question, default=False, err=True):
        sink.remark("--fix: nothing was installed.")
        return
    done = subprocess.run(_installer(shlex.split(command)[4:]), env=launch.environment(), check=False)
    if done.returncode:
        raise UsageError(
            f"--fix: the installation ended with status {done.returncode}.", "Its own words are above."
        )


def _refuse_foreign_environment(command: str) -> None:
    """Stop before an installation that pip would refuse or that this user cannot write.

    Raises:
        UsageError: Python belongs to Homebrew, Debian or another manager (PEP 668), or its folder is not writable.
    """
    fix = f"Make an environment of your own: {sys.executable} -m venv .venv, then there: {command}"
    managed = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
    if sys.prefix == sys.base_prefix and managed.exists():
        raise UsageError(
            f"--fix: {sys.prefix} is managed by the system or Homebrew, and pip refuses it.", fix
        )
    packages = sysconfig.get_path("purelib")
    if not os.access(packages, os.W_OK):
        raise UsageError(f"--fix: this user cannot write {packages}.", fix)


def _installer(requirements: list[str]) -> list[str]:
    """Return the command that installs into this environment: pip's, or uv's where there is no pip, as uv makes it.

    Raises:
        UsageError: Neither is installed.
    """
    if importlib.util.find_spec("pip") is not None:
        return launch.python(
            "pip", "install", *requirements
        )  # a json.py in the working directory must not replace Python's
    from mpsprobe.phases import pins

    uv = pins.find_uv()
    if uv is None:
        raise UsageError(f"--fix: {sys.prefix} has no pip.", f"Run {sys.executable} -m ensurepip first.")
    return [uv, "--no-config", "pip", "install", "--python", sys.executable, *requirements]


@click.command()
@takes(Group.TARGET, Group.DEVICE, Group.MAC, Group.RUN)
@click.option("--phase", "phases", multiple=True, metavar="N", help="1-6, ops or benchmark; repeatable.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), help="Folder of the reports.")
@click.option(
    "--fix", is_flag=True, help="Show what would satisfy unmet requirements, ask, and install it first."
)
@click.option("--yes", is_flag=True, help="With --fix: install without asking.")
@pass_sink
def command(
    sink: Sink, /, phases: tuple[str, ...], output: Path | None, fix: bool, yes: bool, settings: Settings
) -> None:
    """Run the suite on MODEL, in a supervised child process, and write its report.

    MODEL is a repo id, a local folder, a class package.module:Class with --random-init, a file ./target.py of your
    own (which runs), or nothing for the default target.

    Exit codes: 0 pass, 1 fail, 2 usage, 3 blocked, 4 harness error, 5 crashed, timed out or interrupted,
    130 interrupted before the first check.
    """
    # Bad input is reported here, before a child is started.
    from mpsprobe import report
    from mpsprobe.models import targets
    from mpsprobe.supervision import surroundings
    from mpsprobe.supervision.child import Interrupts
    from mpsprobe.supervision.supervisor import Supervisor, alone_in

    unknown = [name for name in phases if name not in _PHASES]
    if unknown:
        raise UsageError(f"--phase {unknown[0]}: no such phase.", f"One of {', '.join(_PHASES)}.")
    if targets.needs_no_hub(settings):
        threads = targets.resolve(settings).profile.cpu_threads
        if threads:
            # Set before the child imports torch: a pool of spinning threads costs a small target a fifth of its time.
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))

    if settings.model and not settings.offline:
        surroundings.check_proxies()
    if yes and not fix:
        raise UsageError("--yes answers the question of --fix.", "Give both.")
    if fix:
        _install_what_is_missing(settings, sink, yes=yes)
    folder = _folder(output, journal.new_run_id(journal.utc_now()))
    arguments = settings.arguments()
    if phases:
        arguments += ["-m", " or ".join(sorted({_PHASES[name].marker for name in phases}))]

    narrator = Narrator(sink)
    # From here on a signal ends the run in order, and its report is written and named however many signals follow.
    with Interrupts(to_the_end=sink.ends_process), alone_in(folder):
        try:
            run = Supervisor(folder, narrator).run(arguments)
        except MpsprobeError:
            _forget_former(folder)
            raise
        finally:
            narrator.close()
        run.command = ["mpsprobe", *sys.argv[1:]]
        for check in run.checks:
            narrator.check(check)
        page = _written(run, folder, sink)
        if output is None:
            _point_latest_to(folder)
        if run.host.system == "Darwin":
            from mpsprobe.forecast import field

            field.of_run(run).save(folder / field.FILE)
            said = "anonymous figures; attach it to an issue if you like. Nothing was sent."
            sink.remark(f"{folder / field.FILE}: {said}")
        report.append_summary(run)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            sink.remark(report.workflow_commands(run))
        headline = report.verdict(run)
        advice = run.outlook.recommendation if run.outlook is not None else None
        helps = f"fix: {headline.recipe}\n" if headline.recipe else ""
        if advice is not None and not helps:
            helps = f"What to do: {advice.sentence}\n"
        sink.result(f"\n{headline.sentence}\n{helps}report: {near(page)}", run)
    click.get_current_context().exit(exit_code(run))
