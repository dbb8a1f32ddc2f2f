"""`mpsprobe diverge`, `baseline` and `parity`: find where the values of two computations differ."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mpsprobe.cli.options import takes
from mpsprobe.cli.sink import Sink, Styled, pass_sink
from mpsprobe.errors import UsageError
from mpsprobe.layers.result import Divergence, FirstDivergence, Judged, Layer, OutputRow, Verdict
from mpsprobe.layers.supervised import Found, Job, Written
from mpsprobe.options import Group, Settings
from mpsprobe.quantities import decimal_size, printable, printable_json

if TYPE_CHECKING:
    from mpsprobe.routes.mlx.mlx_parity import Parity


#: The number of rows in the printed table; `--json` has every module.
_ROWS = 12
#: The number of op uses listed for the first diverging module.
_OPS = 12
STAGES = ("forward", "inference")


stage_option = click.option(
    "--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Run only this stage; repeatable."
)


@click.command("diverge")
@takes(Group.TARGET, Group.DEVICE, Group.MAC)
@stage_option
@click.option("--against", default="cpu", show_default=True, metavar="cpu|BASELINE", help="The reference.")
@click.option("--local/--no-local", default=True, help="Look at each module's own error too.")
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for divergence.json and divergence.html.",
)
@pass_sink
def diverge(
    sink: Sink,
    /,
    against: str,
    local: bool,
    output: Path | None,
    stages: tuple[str, ...],
    settings: Settings,
) -> None:
    """Compare MODEL on a device with a reference, module by module.

    MODEL is a repo id, a local folder, or nothing for the default target. The reference is float32 on the CPU, or a
    file that `mpsprobe baseline` wrote. The first module that diverges beyond the noise floor is named first, with
    the ops it calls; then follow all modules, worst first.

    Exit codes: 0 nothing diverges, 1 something does, 2 usage, or the baseline belongs to another model, 3 the device
    or the target is not available, or its code raised, 4 mpsprobe failed, 5 crashed or hung, 130 interrupted.
    """
    job = make_job(settings, stages, against=None if against == "cpu" else _file(against), local=local)
    answer = do(sink, job)
    assert isinstance(answer, Found)
    if output is not None:
        sink.remark(f"report: {_write(answer.divergence, output)}")
    sink.result(render(answer.divergence), answer.divergence)
    sys.exit(1 if answer.divergence.diverges else 0)


def _write(found: Divergence, folder: Path) -> Path:
    """Write the comparison as a document and as a page, and return the page's path."""
    from mpsprobe.report.divergence import html

    page = folder / "divergence.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page.write_bytes(printable(html(found)).encode())
        document = msgspec.json.format(msgspec.json.encode(found), indent=2).decode()
        (folder / "divergence.json").write_bytes(printable_json(f"{document}\n").encode())
    except OSError as problem:
        raise UsageError(f"{problem.filename or folder}: cannot be written: {problem.strerror}.") from problem
    return page


def _file(against: str) -> str:
    path = Path(against).expanduser()
    if not path.is_file():
        raise UsageError(f"--against {against}: no such file.", "Give cpu, or a file of mpsprobe baseline.")
    from mpsprobe.layers.baseline import read_info

    read_info(path)  # raises here rather than after the model is loaded
    return str(path.resolve())


def make_job(settings: Settings, stages: tuple[str, ...], **more: Any) -> Job:
    """Return the job of these options, after the checks that need no model."""
    from mpsprobe.models import targets

    if targets.needs_no_hub(settings):
        targets.resolve(settings)
    return Job(settings=settings, **more, stages=list(dict.fromkeys(stages)) or list(STAGES))


def do(sink: Sink, job: Job) -> Found | Written:
    """Run a job in its child process, printing its steps, and return the child's answer."""
    from mpsprobe.layers import supervised

    return supervised.run(job, lambda text: sink.remark("  ", Styled(text, dim=True)))


def render(found: Divergence) -> str:
    """Return the comparison as text."""
    parts = [
        f"{found.target}: {found.subject.label} ({found.subject.evidence.value}) against {_reference(found)}."
    ]
    parts.append(_first(found.first) if found.first else _nothing(found))
    parts.append(_table(found.layers))
    if found.outputs:
        parts.append("\n".join(["results:", *(f"  {_output(row)}" for row in found.outputs)]))
    parts.append("\n".join(_stage_lines(found)))
    parts.append("\n".join(f"{sentence}" for sentence in [*found.criterion, *dict.fromkeys(found.notes)]))
    return "\n\n".join(part for part in parts if part)


def _reference(found: Divergence) -> str:
    side = found.reference
    where = f", {side.chip}" if side.chip else ""
    return f"{side.label}{where}, torch {side.torch}"


def _nothing(found: Divergence) -> str:
    if any(row.diverges for row in found.outputs):
        return "No module diverges, but a result does: what the adapter does after the model makes the difference."
    return "Nothing diverges beyond the noise floor."


def _first(first: FirstDivergence) -> str:
    name = first.module or "the model itself"
    kind = f" ({first.kind})" if first.kind else ""
    judged = first.judged
    lines = [f"First to diverge: {name}{kind}, in {first.stage}, call {judged.call + 1}: {judged.place}."]
    lines.append(f"  {_sentence(judged)}")
    if first.verdict is Verdict.MAKES:
        lines.append("  It was given the reference's own inputs: its own code makes this error.")
    else:
        lines.append("  This is the error of all that ran before it too.")
    if first.advisories:
        lines.append(f"  known faults its calls meet: {', '.join(first.advisories)} (mpsprobe advisories ID)")
    if first.op_uses:
        lines.append("  its op uses:")
        for use in first.op_uses[:_OPS]:
            inputs = ", ".join(f"{meta.dtype}{list(meta.shape)}" for meta in use.inputs)
            lines.append(f"    {use.op} ({inputs}) x{use.count}  {use.source}".rstrip())
        if len(first.op_uses) > _OPS:
            lines.append(f"    and {len(first.op_uses) - _OPS} more")
    return "\n".join(lines)


def _sentence(judged: Judged) -> str:
    if judged.problem:
        return f"{judged.problem}."
    assert judged.ratio is not None
    noise = "" if judged.noise is None else f", noise {judged.noise:.2g}"
    return f"error {judged.error:.2g}{noise}, limit {judged.limit:.2g}: {judged.ratio:.3g} times what is accepted."


def _table(layers: list[Layer]) -> str:
    rows = [["module", "class", "stage", "calls", "own error", "accumulated", "x limit", "verdict"]]
    for layer in layers[:_ROWS]:
        worst = max(
            (judged for judged in (layer.local, layer.accumulated) if judged is not None),
            key=lambda judged: judged.rank,
        )
        rows.append(
            [
                layer.module or "(the model)",
                layer.kind,
                layer.stage,
                str(layer.calls),
                _error(layer.local),
                _error(layer.accumulated),
                "-" if worst.ratio is None else f"{worst.ratio:.2g}",
                layer.verdict.value,
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(layers) > _ROWS:
        lines.append(f"and {len(layers) - _ROWS} more, none worse (--json has all)")
    return "\n".join(lines)


def _error(judged: Judged | None) -> str:
    if judged is None:
        return "-"
    if judged.problem:
        if judged.reshaped:
            return "other shape"
        return "same on CPU" if judged.excused else judged.problem.split(",")[0]
    return f"{judged.error:.2g}"


def _output(row: OutputRow) -> str:
    if row.problem:
        said = row.problem
    elif row.same:
        said = "the same"
    elif row.error is None:
        said = "differs"
    else:
        said = f"error {row.error:.2g}" + (f", limit {row.limit:.2g}" if row.judged and row.limit else "")
    verdict = "DIVERGES" if row.diverges else "ok" if row.judged else "not judged"
    return f"{row.stage} {row.name}: {said} ({verdict})"


def _stage_lines(found: Divergence) -> list[str]:
    lines = []
    for stage in found.stages:
        how = "each step from the reference's outcome" if stage.forcing == "steps" else "run freely"
        line = f"{stage.stage}: {stage.compared:,} of {stage.calls:,} module calls compared, {how}."
        if stage.unmatched:
            line += f" {stage.unmatched:,} calls were made only on the device."
        if stage.unforced:
            line += f" {stage.unforced:,} outputs could not be held to the reference."
        lines.append(line)
    return lines


@click.command("baseline")
@takes(Group.TARGET)
@stage_option
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "cuda", "mps"]),
    help="The device to run on.",
)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write.",
)
@pass_sink
def baseline(sink: Sink, /, output: Path, device: str, stages: tuple[str, ...], settings: Settings) -> None:
    """Write what MODEL computes on this machine to a file for `mpsprobe diverge --against FILE`.

    The file (safetensors, no pickle) holds the processed input, the results, a sketch of every module's
    outputs, the noise floor, and what identifies weights and versions. It holds no weights.

    Exit codes: 0 written, 2 usage, 3 the device or the target is not available, or its code raised, 4 mpsprobe
    failed, 5 crashed or hung, 130 interrupted.
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
        f"{answer.path}: {decimal_size(answer.size)}",
        f"  {answer.target}, {answer.dtype} on {answer.device}, weights {answer.weights[:12]}",
        f"  {calls}",
        f"  noise: {answer.noise or 'not measured'}",
        *(f"  {note}" for note in answer.notes),
        f"check a Mac with: {' '.join(['mpsprobe diverge', *named, *made])} --against {Path(answer.path).name}",
    ]
    sink.result("\n".join(lines), answer)


@click.command("parity")
@takes(Group.TARGET, model_required=True, implied={"random_init": True})
@click.option(
    "--package",
    type=click.Choice(["mlx-lm", "mlx-vlm"]),
    help="The library of models.  [default: mlx-vlm for images, else mlx-lm]",
)
@click.option(
    "--timeout", metavar="SECONDS", default=300.0, show_default=True, help="Time limit of the MLX side."
)
@pass_sink
def parity(sink: Sink, package: str | None, timeout: float, settings: Settings) -> None:
    """Compare MODEL in MLX with MODEL in torch, without its weights.

    MODEL is a repo id or a local folder with config.json. A copy with few layers and heads and random weights is
    saved, loaded strictly by mlx-lm or mlx-vlm in a process of its own, and its logits are compared with torch's in
    float32 and float64. Copies that are wrong on purpose must be detected. The command needs the extra `mlx`; on
    Linux it runs on the CPU, which says nothing about Metal's kernels.

    Exit codes: 0 agrees, 1 does not (or MLX cannot load it, or the target cannot be used), 2 usage, or MLX is not
    installed, 3 the hub does not give the target's files, 4 mpsprobe failed.
    """
    from mpsprobe.models import targets
    from mpsprobe.models.weightless import config_only, small_copy
    from mpsprobe.routes.mlx import mlx_parity as mlx

    mlx.require(package or "mlx-lm")
    ref = targets.resolve(settings)
    if ref.file is not None:
        raise UsageError(
            f"{ref.name}: a target's own file cannot be copied to MLX.", "Name a repo id or a model folder."
        )
    blueprint = config_only.blueprint_of(ref, config_only.obtain(ref).path, sink.remark)
    with tempfile.TemporaryDirectory(prefix="mpsprobe-copy-") as scratch:
        copy = small_copy.write(blueprint, Path(scratch) / "copy")
        result = mlx.run(copy.folder, copy.model_class, copy.feeds, package=package, limit_s=timeout)
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
