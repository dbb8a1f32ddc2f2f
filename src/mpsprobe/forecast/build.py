"""Build a forecast: memory and time of a recorded run on the target Mac, and its time on other hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpsprobe.forecast import machine as machines
from mpsprobe.forecast import memory as memories
from mpsprobe.forecast.kinds import kind_of
from mpsprobe.forecast.load_time import transfers
from mpsprobe.forecast.machine import Machine
from mpsprobe.forecast.rates import rates
from mpsprobe.forecast.stages import Stage, stages
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import Trace
from mpsprobe.knowledge import cloud_prices, hardware
from mpsprobe.knowledge.cloud_prices import Network
from mpsprobe.mac.catalogue import NamedMac
from mpsprobe.run import Evidence, Forecast, Mac, OpVerdict
from mpsprobe.run.workload import NEW_TOKENS, RUN_TURNS, Fed, Workload

#: GPUs with which every forecast is compared: those for rent, and those on which the figures were checked.
ELSEWHERE = ("rtx-3090", "rtx-4090", "a100-sxm4-80gb", "h100", "h200")


@dataclass(frozen=True)
class Wish:
    """The options of a forecast.

    Attributes:
        mac: The Mac by name; None where only the releases are known.
        tokens: The number of new tokens of a sample, where it differs from the run's.
        workload: The rest of the requested workload.
        calibrated: The devices that were calibrated.
        elsewhere: The names of GPUs in the hardware table.
        network: The transfer rates; None for the assumed ones.
    """

    mac: NamedMac | None = None
    tokens: int | None = None
    workload: Workload = field(default_factory=Workload)
    calibrated: Sequence[Machine] = field(default_factory=tuple)
    elsewhere: Sequence[str] = ELSEWHERE
    network: Network | None = None


def build(
    trace: Trace,
    mac: Mac,
    wish: Wish,
    *,
    dtypes: Mapping[str, int],
    evidence: Evidence = Evidence.PREDICTED,
    fed: Fed | None = None,
) -> Forecast:
    """Forecast a run.

    Args:
        trace: The run, with verdicts on its op uses.
        mac: The target Mac.
        wish: The options of the forecast.
        dtypes: The number of parameters of the model by dtype.
        evidence: The evidence of the op uses.
        fed: The sizes of the run's input; None where unknown.
    """
    found = stages(trace)
    turns = carried_turns(found, wish)
    work = Work.of(trace, found)
    memory = time = None
    notes: list[str] = []
    if wish.mac is not None:
        memory = memories.memory(
            trace,
            found,
            memory_bytes=wish.mac.memory_bytes,
            macos=wish.mac.macos,
            dtypes=dtypes,
            tokens=turns.get("decode", -1) + 1 or None,
            kv_dtype=wish.workload.kv_dtype,
        )
        machine = machines.of_mac(wish.mac, mac.torch)
        notes += machine.notes
        time = timing(work, machine, turns)
        network = wish.network or cloud_prices.shipped().network
        time.rates = rates(time, fed) if fed is not None else []
        time.parts = [*transfers(trace.weights - trace.states, machine.bandwidth, network), *time.parts]
    others = [machines.of_gpu(gpu) for name in wish.elsewhere if (gpu := hardware.find(name)) is not None]
    elsewhere = [timing(work, one, turns) for one in (*wish.calibrated, *others)]
    for one in elsewhere:
        one.rates = rates(one, fed) if fed is not None else []
    return Forecast(
        mac=mac,
        evidence=evidence,
        memory=memory,
        time=time,
        elsewhere=elsewhere,
        workload=sentence(found, turns, wish, fed) if fed is not None else "",
        limits=[*notes, *_limits(trace, found, wish)],
    )


def carried_turns(found: Sequence[Stage], wish: Wish) -> dict[str, int]:
    """Return the number of iterations of those stages whose loops are extrapolated, by name.

    A generation that reached the largest number of iterations that is run is extrapolated to `NEW_TOKENS` by
    default.
    """
    turns: dict[str, int] = {}
    for stage in found:
        if _decodes(stage):
            tokens = wish.tokens
            if tokens is None and stage.repeats == RUN_TURNS - 1:
                tokens = NEW_TOKENS
            if tokens is not None:
                turns[stage.name] = max(0, tokens - 1)
        elif stage.name.endswith(" step") and stage.repeats > 1 and wish.workload.steps is not None:
            turns[stage.name] = wish.workload.steps
    return turns


def sentence(found: Sequence[Stage], turns: Mapping[str, int], wish: Wish, fed: Fed) -> str:
    """Return the workload in one sentence: the requested sizes, and the defaults for the others."""
    parts = []
    generates = next((stage for stage in found if _decodes(stage)), None)
    if fed.tokens:
        parts.append(f"{'a prompt' if generates else 'a text'} of {fed.tokens:,} tokens")
    if generates is not None:
        parts.append(f"{turns.get(generates.name, generates.repeats) + 1:,} new tokens")
    if fed.image:
        parts.append(f"a picture of {' x '.join(map(str, fed.image))}")
    if fed.audio_seconds:
        parts.append(f"{fed.audio_seconds:g} s of sound")
    steps = [stage for stage in found if stage.name.endswith(" step") and stage.repeats > 1]
    if fed.batches == 1:  # accumulated batches are not iterations of a loop
        parts += [f"{turns.get(stage.name, stage.repeats)} steps" for stage in steps]
    parts.append(f"batch {fed.rows}")
    if fed.batches > 1:
        parts.append(f"{fed.batches} batches a step")
    if wish.workload.kv_dtype is not None:
        parts.append(f"a cache in {wish.workload.kv_dtype}")
    asked = any(getattr(wish.workload, name) for name in Workload.__struct_fields__ if name != "samples")
    how = (
        ""
        if asked
        else " (defaults; --prompt-tokens, --new-tokens, --batch, --image-size, --steps change it)"
    )
    return f"{', '.join(parts)}{how}"


def _decodes(stage: Stage) -> bool:
    return stage.name == "decode" and stage.repeats > 1


def _limits(trace: Trace, found: Sequence[Stage], wish: Wish) -> list[str]:
    """Return sentences that state what a forecast cannot show."""
    texts = [
        "Inside an op nothing is seen: workspaces of MPSGraph and of matmul kernels, and passes over memory beyond "
        "the least.",
        "Memory that the allocator keeps for reuse, and buffers still in flight on the GPU, are not counted.",
        "The host's own memory (Python, torch, the files while they are read) is not counted: some 1 GiB.",
    ]
    if wish.mac is not None:
        texts.append(
            "What PyTorch reaches of this Mac's peaks comes from published runs of large matmuls and copies; heat, "
            "battery and other programs are not in it, and the first run of each new shape compiles its kernels."
        )
        if any(kind_of(use.op) == "conv" for use in trace.uses):
            texts.append("Convolutions are taken to reach what matmuls reach: nobody published theirs.")
        texts.append(
            "Download and load are the bytes of the weights over assumed rates, in a wide range: measure your line."
        )
    fallbacks = sum(use.count for use in trace.uses if use.verdict is OpVerdict.FALLBACK)
    if fallbacks:
        texts.append(
            f"{fallbacks:,} calls fall back to the CPU: their copies and waits are counted, and their work there only "
            "as reading and writing its memory."
        )
    raising = sum(use.count for use in trace.uses if use.verdict is OpVerdict.RAISES)
    if raising:
        texts.append(f"{raising:,} calls raise on that Mac: they are counted as if they ran.")
    unknown = sum(use.count for use in trace.uses if use.bytes is None)
    if unknown:
        texts.append(f"{unknown:,} calls have no formula for their bytes: they count as a launch alone.")
    if wish.tokens is not None and not any(_decodes(stage) for stage in found):
        texts.append("The run has no decode steps to carry on: the number of tokens changes nothing.")
    return texts
