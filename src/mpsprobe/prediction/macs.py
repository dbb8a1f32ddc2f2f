"""Which Macs? One recording of a target, held against every Mac of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from mpsprobe.forecast import Wish
from mpsprobe.forecast.build import carried_turns
from mpsprobe.forecast.machine import of_mac
from mpsprobe.forecast.memory import judge, memory
from mpsprobe.forecast.rates import epoch, rates, training_rates
from mpsprobe.forecast.stages import stages
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.knowledge import chips, engines
from mpsprobe.mac import NamedMac, named, names
from mpsprobe.models.training import TrainingAdapter
from mpsprobe.options import Settings
from mpsprobe.prediction.assemble import observed
from mpsprobe.prediction.observed import resolve
from mpsprobe.quantities import decimal_size, plural
from mpsprobe.report.terminal import of_rate, table
from mpsprobe.report.wording import epoch_time
from mpsprobe.routes.alternatives import FITS
from mpsprobe.run import Epoch, Fit, Mac, Range, Rate, Timing, TrainingStep

_GIB = 2**30
#: A MacBook Air's common size, for which people ask what would fit.
_AIR_GIB = 16


class MacRow(msgspec.Struct, frozen=True, kw_only=True):
    """One Mac.

    Attributes:
        mac: full name, `"m4-pro-20c-48"`.
        chip: as macOS writes it.
        gpu_cores, memory_gib: of it.
        fit: of the target at its own dtype, on its GPU.
        needed_bytes, working_set_bytes: what it takes, and what Metal recommends there at most.
        seconds: of a sample; None where it does not fit.
        rates: of a sample, where it fits.
        quantised: the most bits with which MLX's weights fit easily: `"8-bit"`; empty where none do.
        epoch: of a training whose `--samples` are given; None for others, and where it does not fit.
    """

    mac: str
    chip: str
    gpu_cores: int
    memory_gib: int
    fit: Fit
    needed_bytes: int | None
    working_set_bytes: int
    seconds: Range | None = None
    rates: list[Rate] = []
    quantised: str = ""
    epoch: Epoch | None = None


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """A target against all Macs.

    Attributes:
        target: as the user gave it.
        torch: release.
        workload: in one sentence.
        parameters: of the target.
        rows: by growing memory need of the Mac, as the catalogue has them.
        smallest: the Mac with the least memory, and among those the lowest class, that fits easily; empty for none.
        air: what fits a MacBook Air with 16 GB, in one sentence.
        training: the optimisation step that was judged; None for an inference.
        stopped: why the target's code ended early; then the rows lack what would have come after. Empty otherwise.
    """

    target: str
    torch: str
    workload: str
    parameters: int
    rows: list[MacRow]
    smallest: str
    air: str
    training: TrainingStep | None = None
    stopped: str = ""


def catalogue(settings: Settings, torch: str, say: Callable[[str], None]) -> Catalogue:
    """Return the target held against every Mac that is sold or was.

    Raises:
        MpsprobeError: the target cannot be built or fed.
    """
    from mpsprobe.forecast.build import sentence

    target = resolve(settings, say)
    recording = observed(target, Mac(torch, settings.macos))
    found = stages(recording.trace)
    wish = Wish(tokens=settings.new_tokens, workload=settings.workload)
    turns = carried_turns(found, wish)
    work = Work.of(recording.trace, found)
    adapter = target.adapter
    step = adapter.plan.step_of(recording.fed.rows) if isinstance(adapter, TrainingAdapter) else None
    rows: list[MacRow] = []
    times: dict[tuple[str, int], tuple[Timing, list[Rate]]] = {}
    for name in names():
        mac = named(name, settings.macos)
        need = memory(
            recording.trace,
            found,
            memory_bytes=mac.memory_bytes,
            macos=settings.macos,
            dtypes=recording.dtypes,
            tokens=turns.get("decode", -1) + 1 or None,
            kv_dtype=settings.kv_dtype,
        )
        key = (mac.chip, mac.gpu_cores)
        if key not in times:
            timed = timing(work, of_mac(mac, torch), turns)
            times[key] = timed, (training_rates if step else rates)(timed, recording.fed)
        timed = times[key][0]
        fits = need.fit is not Fit.NO
        rest = max(0, (need.needed_bytes or 0) - recording.weight_bytes)
        rows.append(
            MacRow(
                mac=name,
                chip=mac.chip,
                gpu_cores=mac.gpu_cores,
                memory_gib=mac.memory_bytes // _GIB,
                fit=need.fit,
                needed_bytes=need.needed_bytes,
                working_set_bytes=mac.working_set_bytes,
                seconds=timed.per_sample if fits else None,
                rates=times[key][1] if fits else [],
                # weights that are trained themselves are not quantised
                quantised=""
                if step and step.method == "full"
                else _quantised(recording.parameters, rest, mac),
                epoch=epoch(timed, settings.samples, step.rows)
                if step and settings.samples and fits
                else None,
            )
        )
    return Catalogue(
        target=target.name,
        torch=torch,
        workload=sentence(found, turns, wish, recording.fed),
        parameters=recording.parameters,
        rows=rows,
        smallest=_smallest(rows),
        air=_air(recording.parameters, rows, step),
        training=step,
        stopped=recording.stopped,
    )


def _quantised(parameters: int, rest: int, mac: NamedMac) -> str:
    """Return the most bits with which the weights fit easily."""
    for name, bits in sorted(engines.engine("MLX").bits.items(), key=lambda item: -item[1]):
        needed = round(parameters * bits / 8) + rest
        if judge(needed, mac.working_set_bytes, mac.memory_bytes)[0] is Fit.COMFORTABLE:
            return name
    return ""


def _smallest(rows: Sequence[MacRow]) -> str:
    order = {chip.name: k for k, chip in enumerate(chips.all_chips())}
    classes = ("Ultra", "Max", "Pro")

    def cost(row: MacRow) -> tuple[int, int, int]:
        kind = next((len(classes) - k for k, word in enumerate(classes) if row.chip.endswith(word)), 0)
        return row.memory_gib, kind, -order[row.chip]

    fitting = [row for row in rows if row.fit is Fit.COMFORTABLE]
    return min(fitting, key=cost).mac if fitting else ""


def _air(parameters: int, rows: Sequence[MacRow], training: TrainingStep | None) -> str:
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
    return f"A MacBook Air with {_AIR_GIB} GB: not even with 4-bit weights."


def text(found: Catalogue) -> str:
    """Return the table for people: Macs of one chip and memory in one line, the most GPU cores."""
    rows = []
    full = found.training is not None and found.training.method == "full"
    epochs = next((row.epoch for row in found.rows if row.epoch is not None), None)
    for row in found.rows:
        rate = next((one for one in found_rates(row)), None)
        rows.append(
            [
                row.mac,
                FITS[row.fit],
                _margin(row),
                of_rate(rate) if rate is not None else "",
                *([] if full else [row.quantised or "none"]),
                *([epoch_time(row.epoch) if row.epoch else ""] if epochs else []),
            ]
        )
    size = f"{found.parameters / 1e9:.3g} B parameters"
    head = f"{found.target}: {size}, torch {found.torch}\nWorkload: {found.workload}."
    columns = ["Mac", "fits", "margin", "expected (range)"]
    columns += [] if full else ["fits easily in MLX with"]
    columns += [f"an epoch of {plural(epochs.steps, 'step')}"] if epochs else []
    smallest = (
        f"Smallest that fits easily: {found.smallest}."
        if found.smallest
        else "No Mac of the catalogue fits it easily."
    )
    note = "Margins are to Metal's recommended working set. Prices are not in the catalogue: less memory costs less."
    parts = [head, table(columns, rows), f"{smallest}\n{found.air}\n{note}"]
    if found.stopped:
        parts.insert(
            1, f"The model's own code stopped: {found.stopped}. What follows lacks all that comes after."
        )
    return "\n\n".join(parts)


def found_rates(row: MacRow) -> list[Rate]:
    """Return the rates of a row, the most telling first."""
    order = ("decode", "throughput", "real-time factor")
    return sorted(
        (
            one
            for one in row.rates
            if one.expected is not None and one.name not in ("prefill", "time to first token")
        ),
        key=lambda one: order.index(one.name) if one.name in order else len(order),
    )


def _margin(row: MacRow) -> str:
    if row.needed_bytes is None:
        return "unknown"
    room = row.working_set_bytes - row.needed_bytes
    return f"{'-' if room < 0 else ''}{decimal_size(abs(room))}"
