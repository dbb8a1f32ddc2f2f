"""`mpsprobe baseline`: write down what a model computes here, so that a Mac can be checked against it."""

from __future__ import annotations

from pathlib import Path

import click

from mpsprobe.cli.diverge import do, make_job, stage_option
from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.layers.job import Written
from mpsprobe.options import Group, Settings
from mpsprobe.report.units import size


@click.command("baseline")
@takes(Group.TARGET)
@stage_option
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
def command(sink: Sink, /, output: Path, device: str, stages: tuple[str, ...], settings: Settings) -> None:
    """Write what MODEL computes on this machine to a file for `mpsprobe diverge --against FILE`.

    The file (safetensors, no pickle) holds the processed input, the results, a sketch of every module's
    outputs, the noise floor, and what identifies weights and versions. It holds no weights.
    """
    if output.exists() and not output.is_file():
        raise UsageError(f"{output}: exists and is no file.")
    answer = do(
        sink, make_job(settings.replace(device=device), stages, output=str(output.expanduser().resolve()))
    )
    assert isinstance(answer, Written)
    calls = ", ".join(f"{stage} {count:,} module calls" for stage, count in answer.calls.items())
    named = [settings.model] if settings.model else []
    made = [f"--{name.replace('_', '-')}" for name in ("random_init", "shrink") if getattr(settings, name)]
    lines = [
        f"{answer.path}: {size(answer.size)}",
        f"  {answer.target}, {answer.dtype} on {answer.device}, weights {answer.weights[:12]}",
        f"  {calls}",
        f"  noise: {answer.noise or 'not measured'}",
        *(f"  {note}" for note in answer.notes),
        f"check a Mac with: {' '.join(['mpsprobe diverge', *named, *made])} --against {Path(answer.path).name}",
    ]
    sink.result("\n".join(lines), answer)
