"""`mpsprobe predict` and `mpsprobe macs`: predict what Macs do with a model, from its config only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from mpsprobe.cli.options import takes
from mpsprobe.cli.progress import Waiting
from mpsprobe.cli.sink import Sink, pass_sink
from mpsprobe.errors import SurroundingsError, TargetError, UnsupportedInstallError
from mpsprobe.options import Group, Settings

if TYPE_CHECKING:
    from mpsprobe.run import Run

#: The exit code when the target could not be predicted at all.
NOT_ASKED = SurroundingsError.exit_code


@click.command("predict")
@takes(Group.TARGET, Group.MAC, every_release=True, implied={"random_init": True})
@click.option(
    "--tokens",
    metavar="N",
    type=click.IntRange(1),
    help="Forecast memory and time for N new tokens, extrapolated from the --new-tokens that are run.",
)
@click.option(
    "--calibration",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A file of mpsprobe calibrate, whose device is forecast too.  [default: the one of this machine]",
)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for run.json and its reports."
)
@click.option(
    "--cache/--no-cache",
    default=True,
    help="Use a cached prediction if nothing that it depends on has changed, and cache this one.",
)
@pass_sink
def predict(
    sink: Sink,
    tokens: int | None,
    calibration: Path | None,
    output: Path | None,
    cache: bool,
    settings: Settings,
    every_release: bool,
) -> None:
    """Predict every op that MODEL calls on a Mac, and what happens to it there.

    MODEL is a repo id, a local folder with config.json, a class package.module:Class with --config FILE, a file
    ./target.py of your own (which runs), or nothing for the default target. No weights are read or downloaded: the
    model's code runs on tensors without memory, and only small tensors, such as masks and positions, have real
    values. With --mac, memory and time on that Mac are forecast as well, and each route is judged.

    Exit codes: 0 every op runs on the GPU, 1 something falls back, raises, is wrong or unknown, 2 usage, 3 nothing
    could be predicted: no network, no such repository, no config that can be built, 4 mpsprobe failed. With
    --torch all, the newest release decides, and the older ones are for information.
    """
    from mpsprobe import report
    from mpsprobe.report import terminal

    asked = PredictionArguments(
        every_release=every_release,
        tokens=tokens,
        calibration=calibration,
        routes=output is not None or (settings.mac is not None and not every_release),
    )
    # a caller in this process may have changed what is imported in it
    run = _predict(sink, settings, asked, cache=cache and sink.ends_process)
    if output is not None:
        sink.remark(f"report: {report.write(run, output)['html']}")
    sink.result(terminal.text(run, verbose=sink.verbose), run)
    click.get_current_context().exit(0 if run.fully_native else 1)


class PredictionArguments(TypedDict):
    """The arguments of `prediction.command.predict` other than the settings."""

    every_release: bool
    tokens: int | None
    calibration: Path | None
    routes: bool


def _predict(sink: Sink, settings: Settings, asked: PredictionArguments, *, cache: bool) -> Run:
    """Return the cached prediction for the same options, or make one and cache it."""
    from mpsprobe.prediction import kept
    from mpsprobe.prediction.ingredients import ingredients

    began = dict(os.environ)
    before = ingredients(settings, **asked, environment=began) if cache else None
    if before is not None and (found := kept.find(before)) is not None:
        return found
    from mpsprobe.prediction import command as prediction  # imports torch

    with Waiting(sink) as waiting, _could_be_asked():
        run = prediction.predict(settings, **asked, say=waiting.say, step=waiting.show)
    if before is not None:
        kept.keep(before, ingredients(settings, **asked, environment=began), run)
    return run


@contextlib.contextmanager
def _could_be_asked() -> Iterator[None]:
    """Exit with code 3, not 1, where the model's code or the installed torch keeps the block from an answer."""
    try:
        yield
    except (TargetError, UnsupportedInstallError) as problem:
        problem.exit_code = NOT_ASKED
        raise


@click.command("macs")
@takes(Group.TARGET, Group.MAC, implied={"random_init": True})
@pass_sink
def macs(sink: Sink, settings: Settings) -> None:
    """List which Macs fit MODEL, and how fast they are expected to run it.

    For every Mac of the catalogue: whether it fits easily, is tight or does not fit, the margin to Metal's
    recommended working set, the expected speed with its range, and the largest number of bits at which MLX's
    weights fit easily. No weights are read or downloaded. --mac has no effect here.

    Exit codes: 0 it fits some Mac, 1 it fits none, 2 usage, 3 nothing could be predicted, or the model's code
    stopped, 4 mpsprobe failed.
    """
    import torch as installed

    from mpsprobe.device.virtual.support import require
    from mpsprobe.knowledge.ops import resolve_release
    from mpsprobe.prediction.macs import catalogue, text
    from mpsprobe.run import Fit

    with Waiting(sink) as waiting, _could_be_asked():
        require(memoryless=True)  # before the installed torch stands for that of the target Mac
        release = resolve_release(settings.torch or str(installed.__version__))
        waiting.show("hold the model against every Mac")
        found = catalogue(settings, release, waiting.say)
    sink.result(text(found), found)
    fits = any(row.fit is not Fit.NO for row in found.rows)
    click.get_current_context().exit(NOT_ASKED if found.stopped else 0 if fits else 1)


@click.command("cache")
@click.option("--clear", is_flag=True, help="Delete every cached prediction.")
@pass_sink
def cache(sink: Sink, clear: bool) -> None:
    """Show where predictions are cached and how much disk space they take, or delete them.

    A cached prediction is used while nothing that it depends on has changed; `predict --no-cache` computes it again.
    """
    from mpsprobe.prediction import kept
    from mpsprobe.quantities import decimal_size, plural

    was = kept.clear() if clear else kept.content()
    done = "Deleted" if clear else "Kept"
    sink.result(
        f"{done}: {plural(was.entries, 'prediction')}, {decimal_size(was.nbytes)}, in {was.folder}", was
    )
