"""`mpsprobe parity`: does MLX compute what torch computes, on a small random copy of a model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, json_flag, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.options import Group, Settings

if TYPE_CHECKING:
    from mpsprobe.routes.mlx.parity import Parity


@click.command("parity")
@takes(Group.TARGET, model_required=True, implied={"random_init": True})
@click.option(
    "--package",
    type=click.Choice(["mlx-lm", "mlx-vlm"]),
    help="The library of models.  [default: mlx-vlm for images, else mlx-lm]",
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that the MLX side may take.")
@json_flag
@pass_sink
def command(sink: Sink, package: str | None, timeout: float, settings: Settings) -> None:
    """Compare MODEL in MLX with MODEL in torch, without its weights.

    MODEL is a repo id or a local folder with config.json. A copy with few layers and heads and random weights is
    saved, loaded strictly by mlx-lm or mlx-vlm in a process of its own, and its logits are compared with torch's
    in float32 and float64. Copies that are wrong on purpose must be seen. Needs the extra `mlx`; on Linux it runs
    on the CPU, which says nothing of Metal's kernels.

    Exit codes: 0 agrees, 1 does not (or MLX cannot load it), 2 usage.
    """
    from mpsprobe.models import targets
    from mpsprobe.models.weightless import config_only, small_copy
    from mpsprobe.routes.mlx import parity

    parity.require(package or "mlx-lm")
    ref = targets.resolve(settings)
    if ref.file is not None:
        raise UsageError(
            f"{ref.name}: a target's own file cannot be copied to MLX.", "Name a repo id or a model folder."
        )
    blueprint = config_only.blueprint_of(ref, config_only.obtain(ref).path, sink.remark)
    with tempfile.TemporaryDirectory(prefix="mpsprobe-copy-") as scratch:
        copy = small_copy.write(blueprint, Path(scratch) / "copy")
        result = parity.run(copy.folder, copy.model_class, copy.feeds, package=package, limit_s=timeout)
    unused = [f"--{name}" for name in ("dtype", "autocast", "new-tokens") if _given(settings, name)]
    if unused:
        copy.notes.append(
            f"The copy is compared in float32, one forward pass: {', '.join(unused)} had no effect."
        )
    result.notes = [*blueprint.notes, *copy.notes]
    sink.result(_text(result), {**_data(result), "agrees": result.agrees})
    click.get_current_context().exit(0 if result.agrees else 1)


def _given(settings: Settings, name: str) -> bool:
    return getattr(settings, name.replace("-", "_")) is not None


def _data(result: Parity) -> dict[str, object]:
    import msgspec

    data: dict[str, object] = msgspec.to_builtins(result)
    return data


def _text(result: Parity) -> str:
    lines = [
        f"{result.model_type}: {'agrees' if result.agrees else 'does not agree'}, {result.package} "
        f"{result.version} against torch {result.versions.get('torch', '')}, {result.device or 'no device'}",
        *(f"  note   {note}" for note in result.notes),
    ]
    if result.problem:
        lines.append(f"  MLX yielded nothing: {result.problem}")
    for feed in result.feeds:
        word = "ok" if feed.agrees else "FAIL"
        error = "nothing to compare"
        if feed.error is not None:
            error = f"off by {feed.error:.2e} (from float64 by {feed.error64:.2e})"
        lines.append(
            f"  {word:<6} {feed.name}: {error}; gate {feed.gate:.2e}, torch's noise {feed.noise:.2e}"
        )
    for control in result.controls:
        seen = "seen" if control.caught else "NOT SEEN"
        error = "did not load" if control.error is None else f"off by {control.error:.2e}"
        lines.append(f"  {seen:<6} control: {control.name}: {error}")
    if result.device and "gpu" not in result.device:
        lines.append("  Nothing ran on Metal.")
    return "\n".join(lines)
