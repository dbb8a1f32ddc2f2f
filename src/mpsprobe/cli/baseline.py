"""`mpsprobe baseline`: write down what a model computes here, so that a Mac can be checked against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mpsprobe.cli.diverge import do, make_job, target_options
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.layers.job import Written
from mpsprobe.report.units import size


@click.command("baseline")
@target_options
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda", "mps"]),
    help="Where to run.",
)
@click.option(
    "--output", "-o", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file."
)
@json_flag
@pass_sink
def command(sink: Sink, /, output: Path, stages: tuple[str, ...], **options: Any) -> None:
    """Write what MODEL computes on this machine to a file for `mpsprobe diverge --against FILE`.

    The file (safetensors, no pickle) holds the processed input, the results, a sketch of every module's
    outputs, the noise floor, and what identifies weights and versions. It holds no weights.
    """
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: exists and is no file.")
    answer = do(sink, make_job(options, stages, output=str(output.expanduser().resolve())))
    assert isinstance(answer, Written)
    calls = ", ".join(f"{stage} {count:,} module calls" for stage, count in answer.calls.items())
    named = [options["model"]] if options["model"] else []
    made = [f"--{name.replace('_', '-')}" for name in ("random_init", "shrink") if options[name]]
    lines = [
        f"{answer.path}: {size(answer.size)}",
        f"  {answer.target}, {answer.dtype} on {answer.device}, weights {answer.weights[:12]}",
        f"  {calls}",
        f"  noise: {answer.noise or 'not measured'}",
        *(f"  {note}" for note in answer.notes),
        f"check a Mac with: {' '.join(['mpsprobe diverge', *named, *made])} --against {Path(answer.path).name}",
    ]
    sink.result("\n".join(lines), answer)
