"""The command line: a group whose commands are imported only when they are called.

`mpsprobe --help` must not import torch (it starts in a tenth of a second), so each command is a module of this
package and is listed, with its help line, in `COMMANDS`.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from mpsprobe import __version__
from mpsprobe.cli.sink import COLOURS, Sink, say, wrapped
from mpsprobe.errors import (
    HarnessError,
    MpsprobeError,
    SurroundingsError,
    TargetError,
    UsageError,
    first_line,
    text_of,
)

#: Commands by name: the module of this package with the name of its `click.Command`, and the help line.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:command", "Run the suite on a model and write its report."),
    "report": ("report:rebuild", "Regenerate the reports of a finished run."),
    "predict": ("predict:predict", "Predict what a Mac does with a model: no weights, no download."),
    "cache": ("predict:cache", "Show where predictions are cached, or delete them."),
    "macs": ("predict:macs", "List the Macs that a model fits, with its expected speed."),
    "calibrate": ("machine:calibrate", "Measure this machine's device, for its own forecasts."),
    "parity": ("diverge:parity", "Compare MLX with torch on a small random copy of a model."),
    "scan": ("scan:command", "Find code that breaks on MPS, without running it."),
    "ops": ("ops:command", "Look up how each torch release runs an op on MPS."),
    "advisories": ("advisories:command", "List known faults by torch, macOS, chip and op."),
    "explain": ("explain:command", "Explain an error, a warning or a log of an MPS run."),
    "diverge": ("diverge:diverge", "Find the first layer whose values differ from a reference."),
    "baseline": ("diverge:baseline", "Save what a model computes here, to check a Mac against."),
    "compare": ("compare:command", "Compare two runs, worst changes first."),
    "merge": ("report:merge", "Merge runs into one matrix of targets and machines."),
    "target": ("target:command", "Write a target.py for a model of your own."),
    "expect": ("expect:command", "Write expectation files from a run's failed op checks."),
    "doctor": ("machine:doctor", "Check this machine, and whether MPS computes here."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help lines, and imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"mpsprobe.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; for an unknown name, suggest the closest one.

        Raises:
            UsageError: There is no command of that name.
        """
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"One of: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpsprobe")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only, on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Print every detail.")
@click.option(
    "--color",
    "colour",
    type=click.Choice(COLOURS),
    default="auto",
    help="Whether to colour.  [default: auto, which obeys NO_COLOR]",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, as_json: bool, quiet: bool, verbose: bool, colour: str, debug: bool) -> None:
    """Will this PyTorch model run on that Mac, how well, and what should its owner do?

    These options may also follow a command's own. Shell completion:
    https://github.com/mpsprobe/mpsprobe/blob/main/docs/cli.md#shell-completion
    """
    of_main = ctx.obj
    ctx.obj = Sink(as_json=as_json, quiet=quiet, verbose=verbose, colour=colour)
    ctx.obj.ends_process = of_main is not None and of_main.ends_process
    ctx.meta["mpsprobe.debug"] = debug


def main() -> None:
    """Run the command line. An `MpsprobeError` becomes one line on stderr and its documented exit code."""
    _open_streams()
    try:
        _working_directory()
        # Outside click's own mode the code of ctx.exit() is returned, not raised.
        sys.exit(cli.main(standalone_mode=False, obj=Sink(ends_process=True)))
    except click.exceptions.NoArgsIsHelpError as problem:
        say(problem.format_message())
        sys.exit(2)
    except click.ClickException as problem:
        if isinstance(problem, click.UsageError) and problem.ctx is not None:
            say(f"{problem.ctx.get_usage()}\n", err=True)
        say(wrapped(f"Error: {problem.format_message()}"), err=True)
        sys.exit(2)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted.", err=True)
        sys.exit(130)
    except MpsprobeError as problem:
        _end(problem)
    except Exception as problem:  # a fault of the installation or of mpsprobe, not of the model
        if "--debug" in sys.argv:
            raise
        if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
            name = str(problem.filename)
            _end(UsageError(f"{name[:40]}...: no name of a file has {len(name):,} characters."))
        if isinstance(problem, RuntimeError) and "home directory" in str(problem):  # of pathlib
            _end(UsageError("A path begins with ~, for which there is no home folder.", "Write it out."))
        from mpsprobe.models import conflicts
        from mpsprobe.supervision import surroundings

        said, command = conflicts.explain(problem)
        if said:
            _end(SurroundingsError(said, command))
        if (found := surroundings.fault(f"{type(problem).__name__}: {text_of(problem)}")) is not None:
            _end(found)
        if (of_target := _of_target(problem)) is not None:
            _end(of_target)
        where = traceback.extract_tb(problem.__traceback__)[-1]
        reason = " ".join(text_of(problem).split())[:200]
        place = f"{Path(where.filename).name}:{where.lineno}"
        say(f"mpsprobe itself failed: {type(problem).__name__}: {reason} ({place})", err=True)
        say("  --debug shows the traceback. Please report it with that.", err=True)
        sys.exit(HarnessError.exit_code)


def _of_target(problem: BaseException) -> TargetError | None:
    """Return an error for what the target's code raised, with its line; None where no code of a target raised it."""
    try:
        from mpsprobe.phases.target_code import is_of_target
        from mpsprobe.trace.source import line_of
    except Exception:  # torch itself cannot be imported, so no code of a target ran
        return None
    if not is_of_target(problem):
        return None
    said = f"{type(problem).__name__}: {first_line(problem)}"
    return TargetError(f"The target's code raised {said} (at {line_of(problem.__traceback__)})")


def _end(problem: MpsprobeError) -> NoReturn:
    if "--debug" in sys.argv:
        raise problem
    say(wrapped(f"mpsprobe: {problem.what}"), err=True)
    if problem.hint:
        say(wrapped(f"  {problem.hint}"), err=True)
    sys.exit(problem.exit_code)


def _open_streams() -> None:
    """Open `os.devnull` for each closed standard stream, whose number the next opened file would otherwise get."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    # Python has no stream for a number that was closed when it started
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def _working_directory() -> None:
    """Check that the working directory exists.

    Raises:
        UsageError: The directory does not exist.
    """
    try:
        Path.cwd()
    except OSError as problem:
        raise UsageError("The working directory is gone.", "Change to one that is there.") from problem
