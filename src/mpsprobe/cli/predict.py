"""`mpsprobe predict`: what a Mac would do with a model, from its config alone."""

from __future__ import annotations

from pathlib import Path

import click

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.options import Group, Settings


@click.command("predict")
@takes(Group.TARGET, Group.MAC, every_release=True, implied={"random_init": True})
@click.option(
    "--tokens",
    type=click.IntRange(1),
    help="Forecast memory and time for so many new tokens, carried on from those generated.",
)
@click.option(
    "--calibration",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file of mpsprobe calibrate: forecast its device too.  [default: the one of this machine]",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for run.json and its reports."
)
@json_flag
@pass_sink
def command(
    sink: Sink,
    tokens: int | None,
    calibration: Path | None,
    output: Path | None,
    settings: Settings,
    every_release: bool,
) -> None:
    """Predict every op that MODEL calls on a Mac, and what becomes of it there.

    MODEL is a repo id, a local folder with config.json, a class package.module:Class with --config FILE, a file
    ./target.py of your own (which runs), or nothing for the default target. No weights are read or downloaded and
    nothing is computed. With --mac the memory and the time that it takes there are forecast as well, and each
    route is judged.

    Exit codes: 0 predicted, 1 something falls back, raises or is wrong, 2 usage.
    """
    from mpsprobe import report
    from mpsprobe.prediction import command as prediction  # imports torch
    from mpsprobe.report import terminal

    routes = output is not None or (settings.mac is not None and not every_release)
    run = prediction.predict(
        settings,
        every_release=every_release,
        tokens=tokens,
        calibration=calibration,
        routes=routes,
        say=sink.remark,
    )
    if output is not None:
        sink.remark(f"report: {report.write(run, output)['html']}")
    sink.result(terminal.text(run), run)
    click.get_current_context().exit(0 if run.fully_native else 1)
