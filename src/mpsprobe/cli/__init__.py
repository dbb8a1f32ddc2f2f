"""The command line: a group whose commands are imported only when they are called.

`mpsprobe --help` must not import torch (it starts in a tenth of a second), so each command is a module of
this package and is named, with its help line, in `COMMANDS`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from mpsprobe import __version__
from mpsprobe.cli.sink import Sink, say
from mpsprobe.errors import HarnessError, MpsprobeError, SurroundingsError, UsageError, text_of

#: Command name -> (module of this package that holds a `click.Command` called `command`, help line).
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "Run the suite on a model, in a supervised child process."),
    "report": ("report", "Rebuild reports from a run.json."),
    "macs": ("macs", "List which Macs fit a model, and how fast they are expected to run it."),
    "predict": ("predict", "Say what a model would do on a Mac: no weights, no device, no download."),
    "calibrate": ("calibrate", "Measure what this machine's device reaches, for forecasts."),
    "parity": ("parity", "Compare MLX with torch on a small random copy of a model."),
    "scan": ("scan", "List what breaks on MPS in source code, without running it."),
    "ops": ("ops", "Look ops up: what each torch release does with them on MPS."),
    "advisories": ("advisories", "List known faults of torch on MPS, by torch, macOS, chip and op."),
    "explain": ("explain", "Say what an error, a warning or a whole log of an MPS run means."),
    "diverge": ("diverge", "Find the first layer whose values differ from a reference."),
    "baseline": (
        "baseline",
        "Write down what a target yields here, for another machine to be checked against.",
    ),
    "compare": ("compare", "Set two runs side by side, worst first."),
    "merge": ("merge", "Merge many runs into one matrix of targets and machines."),
    "target": ("target", "Write a target.py for a model, ready to be filled in."),
    "expect": ("expect", "Write expectation files from a run's failed op checks."),
    "doctor": ("doctor", "Say what this machine is and whether MPS computes here."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help lines, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mpsprobe.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpsprobe")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors, on stderr.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, as_json: bool, quiet: bool, debug: bool) -> None:
    """Will this PyTorch model run on that Mac, how well, and what should its owner do?"""
    ctx.obj = Sink(as_json=as_json, quiet=quiet)
    ctx.meta["mpsprobe.debug"] = debug


def main() -> None:
    """Run the command line: errors of the hierarchy become one line on stderr and their documented exit code."""
    _open_streams()
    try:
        _working_directory()
        # Outside click's own mode the code of ctx.exit() is returned, not raised.
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as problem:
        if isinstance(problem, click.UsageError) and problem.ctx is not None:
            say(f"{problem.ctx.get_usage()}\n", err=True)
        say(f"Error: {problem.format_message()}", err=True)
        sys.exit(2)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted.", err=True)
        sys.exit(130)
    except MpsprobeError as problem:
        _end(problem)
    except Exception as problem:  # of what is installed here, or ours: it says nothing of the model
        if "--debug" in sys.argv:
            raise
        if isinstance(problem, OSError) and problem.errno == errno.ENAMETOOLONG:
            name = str(problem.filename)
            _end(UsageError(f"{name[:40]}...: no name of a file has {len(name):,} characters."))
        from mpsprobe.models import conflicts
        from mpsprobe.supervision import surroundings

        said, command = conflicts.explain(problem)
        if said:
            _end(SurroundingsError(said, command))
        if (found := surroundings.fault(f"{type(problem).__name__}: {text_of(problem)}")) is not None:
            _end(found)
        where = traceback.extract_tb(problem.__traceback__)[-1]
        reason = " ".join(text_of(problem).split())[:200]
        place = f"{Path(where.filename).name}:{where.lineno}"
        say(f"mpsprobe itself failed: {type(problem).__name__}: {reason} ({place})", err=True)
        say("  --debug shows the traceback. Please report it with that.", err=True)
        sys.exit(HarnessError.exit_code)


def _end(problem: MpsprobeError) -> NoReturn:
    if "--debug" in sys.argv:
        raise problem
    say(f"mpsprobe: {problem.what}", err=True)
    if problem.hint:
        say(f"  {problem.hint}", err=True)
    sys.exit(problem.exit_code)


def _open_streams() -> None:
    """Give the three streams a place where they are closed: else the next file opened would take theirs."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def _working_directory() -> None:
    """Stop where the working directory is gone.

    Raises:
        UsageError: it is.
    """
    try:
        Path.cwd()
    except OSError as problem:
        raise UsageError("The working directory is gone.", "Change to one that is there.") from problem
