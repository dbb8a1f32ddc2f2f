"""Compare one recording of a target with every Mac of the catalogue: the answer of `mpsprobe macs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from mpsprobe.forecast import ForecastOptions
from mpsprobe.forecast.build import carried_turns, sentence
from mpsprobe.forecast.trace import stages
from mpsprobe.knowledge import engines
from mpsprobe.models.training import TrainingAdapter
from mpsprobe.options import Settings
from mpsprobe.prediction.assemble import observed
from mpsprobe.prediction.fitting import architecture, every_mac, smallest
from mpsprobe.prediction.observed import resolve
from mpsprobe.quantities import decimal_size, plural
from mpsprobe.report.terminal import of_rate, table
from mpsprobe.report.wording import epoch_time
from mpsprobe.routes.alternatives import FITS
from mpsprobe.routes.mlx.components import held_by
from mpsprobe.run import Fit, Mac, MacFit, TrainingStep

#: The common memory of a MacBook Air in GiB, about which many users ask.
_AIR_GIB = 16


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `mpsprobe macs`: a target, compared with every Mac.

    Attributes:
        target: The target as the user named it.
        torch: The torch release.
        workload: The workload in one sentence.
        parameters: The number of parameters.
        rows: Every Mac, in the catalogue's order.
        smallest: The Mac with the least memory that fits easily, and among those the lowest class; empty for
            none.
        air: A sentence on whether a MacBook Air with 16 GB suffices, and in which form.
        training: The optimisation step that was judged; None for an inference.
        stopped: The reason why the target's code ended early, so that the rows lack what would have followed;
            else empty.
    """

    target: str
    torch: str
    workload: str
    parameters: int
    rows: list[MacFit]
    smallest: str
    air: str
    training: TrainingStep | None = None
    stopped: str = ""


def catalogue(settings: Settings, torch: str, say: Callable[[str], None]) -> Catalogue:
    """Run a target once on memoryless tensors, and compare it with every Mac of the catalogue.

    Args:
        settings: The target, the workload and the macOS.
        torch: The torch release.
        say: A function that is called with a line for each file of foreign code, before it runs.

    Raises:
        MpsprobeError: The target cannot be built or given an input.
    """
    target = resolve(settings, say)
    recording = observed(target, Mac(torch, settings.macos))
    found = stages(recording.trace)
    wish = ForecastOptions(tokens=settings.new_tokens, workload=settings.workload)
    turns = carried_turns(found, wish)
    adapter = target.adapter
    step = adapter.plan.step_of(recording.fed.rows) if isinstance(adapter, TrainingAdapter) else None
    held = held_by(architecture(adapter))
    rows = every_mac(
        recording, torch, settings.macos, wish, mlx=held, training=step, samples=settings.samples or 0
    )
    return Catalogue(
        target=target.name,
        torch=torch,
        workload=sentence(found, turns, wish, recording.fed),
        parameters=recording.parameters,
        rows=rows,
        smallest=smallest(rows),
        air=_air(recording.parameters, rows, step, held=held),
        training=step,
        stopped=recording.stopped,
    )


def _air(parameters: int, rows: Sequence[MacFit], training: TrainingStep | None, *, held: bool) -> str:
    row = next(
        (row for row in reversed(rows) if row.memory_gib == _AIR_GIB and row.chip.count(" ") == 1), None
    )
    if row is None:
        return ""
    if row.fit is Fit.COMFORTABLE:
        return f"A MacBook Air with {_AIR_GIB} GB: fits easily as it is."
    if training is not None and training.method == "full":
        return f"A MacBook Air with {_AIR_GIB} GB: {FITS[row.fit]}. --train lora takes less."
    if row.quantised:
        bits = engines.engine("MLX").bits[row.quantised]
        size = decimal_size(parameters * bits / 8)
        return f"A MacBook Air with {_AIR_GIB} GB: fits easily in MLX with {row.quantised} weights ({size})."
    if not held:
        return f"A MacBook Air with {_AIR_GIB} GB: not as it is; no library of MLX is known to hold it quantised."
    return f"A MacBook Air with {_AIR_GIB} GB: not even with 4-bit weights."


def text(found: Catalogue) -> str:
    """Return the answer as text for readers: a sentence, a table with a line for each Mac, and notes."""
    rows = []
    full = found.training is not None and found.training.method == "full"
    epochs = next((row.epoch for row in found.rows if row.epoch is not None), None)
    heads = {(one.name, one.unit) for row in found.rows for one in row.rates[:1]}
    name, unit = next(iter(heads)) if len(heads) == 1 else ("", "")
    for row in found.rows:
        rate = next(iter(row.rates), None)
        rows.append(
            [
                row.mac,
                FITS[row.fit],
                _margin(row),
                of_rate(rate, named=not name) if rate is not None else "",
                *([] if full else [row.quantised or "none"]),
                *([epoch_time(row.epoch) if row.epoch else ""] if epochs else []),
            ]
        )
    size = f"{found.parameters / 1e9:.3g} B parameters"
    head = f"{found.target}: {size}, torch {found.torch}\nWorkload: {found.workload}."
    expected = f"{name}{'' if unit == 's' else f' {unit}'}" if name else "expected"
    columns = ["Mac", "fits", "margin", f"{expected} (range)"]
    columns += [] if full else ["MLX"]
    columns += [f"an epoch of {plural(epochs.steps, 'step')}"] if epochs else []
    smallest = (
        f"Smallest that fits easily: {found.smallest}."
        if found.smallest
        else "No Mac of the catalogue fits it easily."
    )
    mlx = "" if full else "MLX: the most bits of weights that fit easily there. "
    note = (
        f"{mlx}Margins are to Metal's recommended working set. Prices are not in the catalogue: less memory costs "
        "less."
    )
    easily = sum(row.fit is Fit.COMFORTABLE for row in found.rows)
    answer = f"{easily} of {len(found.rows)} Macs hold it easily. {smallest}\n{found.air}"
    parts = [answer, head, table(columns, rows), note, answer]
    if found.stopped:
        parts.insert(
            1, f"The model's own code stopped: {found.stopped}. What follows lacks all that comes after."
        )
    return "\n\n".join(parts)


def _margin(row: MacFit) -> str:
    if row.needed_bytes is None:
        return "unknown"
    room = row.working_set_bytes - row.needed_bytes
    return f"{'-' if room < 0 else ''}{decimal_size(abs(room))}"
