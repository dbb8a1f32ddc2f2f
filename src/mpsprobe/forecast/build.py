"""Build a forecast: memory and time of a recorded run on the target Mac, and its time on other hardware.

The time until the weights are loaded does not depend on the model: their size over the rates of
`knowledge.cloud_prices`. The download rate is an assumption; the load rate is based on published timings of
`from_pretrained` and `safetensors` on Macs, which vary widely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpsprobe.forecast import machine as machines
from mpsprobe.forecast import memory as memories
from mpsprobe.forecast.machine import Machine
from mpsprobe.forecast.timing import Work, timing
from mpsprobe.forecast.trace import Stage, Trace, stages
from mpsprobe.knowledge import cloud_prices, speed
from mpsprobe.knowledge.cloud_prices import Network
from mpsprobe.mac.catalogue import NamedMac, sold_with_cores
from mpsprobe.quantities import enumerate_words
from mpsprobe.run import Epoch, Evidence, Forecast, Mac, OpVerdict, Range, Rate, TimePart, Timing
from mpsprobe.run.outlook import NEW_TOKENS, RUN_TURNS, Fed, Workload

#: GPUs with which every forecast is compared: those for rent, and those on which the figures were checked.
ELSEWHERE = ("rtx-3090", "rtx-4090", "a100-sxm4-80gb", "h100", "h200")


@dataclass(frozen=True)
class ForecastOptions:
    """The Mac, the workload and the devices that a forecast is made for.

    Attributes:
        mac: The Mac by name; None where only the releases are known.
        tokens: The number of new tokens of a sample, where it differs from the run's.
        workload: The requested sizes of the workload, of which the denoising steps and the dtype of the cache count
            here.
        calibrated: The devices that were calibrated.
        elsewhere: The names of GPUs to compare with; those that are not in the hardware table are skipped.
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
    wish: ForecastOptions,
    *,
    dtypes: Mapping[str, int],
    fed: Fed | None = None,
) -> Forecast:
    """Forecast memory and time of a recorded run on a Mac, and its time on other hardware.

    Args:
        trace: The run, with verdicts on its op uses.
        mac: The target Mac.
        wish: The options of the forecast.
        dtypes: The number of parameters of the model by dtype.
        fed: The sizes of the run's input; None where unknown, so that the forecast has no rates and no sentence on
            the workload.
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
    others = [machines.of_gpu(gpu) for name in wish.elsewhere if (gpu := speed.find_gpu(name)) is not None]
    elsewhere = [timing(work, one, turns) for one in (*wish.calibrated, *others)]
    for one in elsewhere:
        one.rates = rates(one, fed) if fed is not None else []
    return Forecast(
        mac=mac,
        evidence=Evidence.PREDICTED,  # arithmetic, however well the ops are known
        memory=memory,
        time=time,
        elsewhere=elsewhere,
        workload=sentence(found, turns, wish, fed) if fed is not None else "",
        limits=[*notes, *_limits(trace, found, wish)],
    )


def carried_turns(found: Sequence[Stage], wish: ForecastOptions) -> dict[str, int]:
    """Return, by stage, the number of iterations that a forecast assumes where that differs from the run's.

    These are decoding with a requested number of tokens and denoising with a requested number of steps. Without a
    request, a generation that a run cut off at its limit is extrapolated to `NEW_TOKENS`.
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


def sentence(found: Sequence[Stage], turns: Mapping[str, int], wish: ForecastOptions, fed: Fed) -> str:
    """Return the workload in one phrase; where no size was requested, it names the options that change them."""
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


def _limits(trace: Trace, found: Sequence[Stage], wish: ForecastOptions) -> list[str]:
    """Return sentences that state what a forecast cannot show."""
    texts = [
        "Inside an op nothing is seen: workspaces of MPSGraph and of matmul kernels, and passes over memory beyond "
        "the least.",
        "Memory that the allocator keeps for reuse, and buffers still in flight on the GPU, are not counted.",
        "The host's own memory (Python, torch, the files while they are read) is not counted: about 1 GB.",
    ]
    if wish.mac is not None:
        cores = sold_with_cores(wish.mac)
        if len(cores) > 1 and f"-{wish.mac.gpu_cores}c-" not in wish.mac.name:
            counts = enumerate_words([str(one) for one in cores])
            texts.append(
                f"{wish.mac.name} is sold with {counts} GPU cores: the forecast is for {wish.mac.gpu_cores}."
            )
        texts.append(
            "What PyTorch reaches of this Mac's peaks comes from published runs of large matmuls and copies; heat, "
            "battery and other programs are not in it, and the first run of each new shape compiles its kernels."
        )
        texts.append(
            "Download and load are the bytes of the weights over assumed rates, in a wide range. "
            "Measure your connection."
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
        texts.append(f"{unknown:,} calls have no formula for their bytes: they count as a launch only.")
    if wish.tokens is not None and not any(_decodes(stage) for stage in found):
        texts.append("The run has no decode steps to carry on: the number of tokens changes nothing.")
    return texts


#: Assumed download rates in bytes/s: a home connection of 50 Mbit/s, and one of 1 Gbit/s.
_SLOW_LINE, _FAST_LINE = 6.25e6, 125e6
#: The rate of a Mac's fastest network port in bytes/s: 10 Gbit/s.
_PORT = 1.25e9
#: Load rates in bytes/s: the slowest published one (0.52 GB/s, Mistral 7B on an M5 with little free memory), lowered,
#: and that of a file in macOS's cache (7 GB/s, M5 Pro: https://github.com/huggingface/safetensors/pull/756).
_SLOW_LOAD, _FAST_LOAD = 0.35e9, 7e9


def transfers(weights: int, bandwidth: float, network: Network) -> list[TimePart]:
    """Return the stages of downloading and loading the weights.

    Args:
        weights: The size of the weights in bytes.
        bandwidth: The bandwidth of the Mac's memory in bytes/s; loading writes each weight once.
        network: The expected rates.
    """
    return [
        _part("download", "network", weights, _PORT, _FAST_LINE, network.home_down, _SLOW_LINE),
        _part("load", "disk", weights, bandwidth, _FAST_LOAD, network.mac_load, _SLOW_LOAD),
    ]


def _part(
    name: str, bound: str, weights: int, limit: float, fast: float, expected: float, slow: float
) -> TimePart:
    """Return a stage of downloading or loading, whose range from `slow` to `fast` is widened to include `expected`."""
    low, high = max(fast, expected), min(slow, expected)
    return TimePart(
        name=name,
        seconds=Range(weights / max(limit, low), weights / expected, low=weights / low, high=weights / high),
        bound=bound,
        bytes=weights,
    )


#: The end of the name of a stage that is an iteration of a denoising or flow loop.
_STEP = " step"


def rates(timing: Timing, fed: Fed) -> list[Rate]:
    """Return the rates that the stages of a sample allow, each with its range.

    These are tokens per second, time to first token, seconds per iteration of a denoising loop, and the real-time
    factor of sound. A target with none of them gets items per second; nothing is returned for a target whose time
    is unknown.
    """
    found: list[Rate] = []
    before: list[Range] = []
    for part in timing.parts:
        if part.launches is None:  # a transfer
            continue
        name = part.name
        if name.startswith("prefill"):
            if fed.tokens:
                found.append(_per_second("prefill", "tokens/s", fed.rows * fed.tokens, part.seconds))
            found.append(Rate("time to first token", "s", *_whole([*before, part.seconds])))
        elif name.startswith("decode") and part.repeats:
            found.append(_per_second("decode", "tokens/s", fed.rows * part.repeats, part.seconds))
        elif name.endswith(_STEP) and part.repeats > 1:
            each = [value / part.repeats if value is not None else None for value in _of(part.seconds)]
            found.append(Rate(name.removesuffix(_STEP), "s/it", *each))
        before.append(part.seconds)
    whole = timing.per_sample
    if whole is None:
        return found
    if fed.audio_seconds:
        sound = fed.rows * fed.audio_seconds
        factors = [value / sound if value is not None else None for value in _of(whole)]
        found.append(Rate("real-time factor", "s/s", *factors))
    if not found:
        found.append(_per_second("throughput", "items/s", fed.rows, whole))
    return found


def training_rates(timing: Timing, fed: Fed) -> list[Rate]:
    """Return the time of an optimisation step, and samples and tokens per second; empty when that time is unknown."""
    whole = timing.per_sample
    if whole is None:
        return []
    rows = fed.rows * fed.batches
    found = [Rate("a step", "s", *_of(whole)), _per_second("throughput", "items/s", rows, whole)]
    if fed.tokens:
        found.append(_per_second("training", "tokens/s", rows * fed.tokens, whole))
    return found


def epoch(timing: Timing, samples: int, rows: int) -> Epoch | None:
    """Forecast one pass over the training data; return None where the time of a step is unknown.

    Args:
        timing: The time of one optimisation step.
        samples: The number of samples in the data.
        rows: The number of samples in a step.
    """
    whole = timing.per_sample
    if whole is None:
        return None
    steps = math.ceil(samples / rows)
    expected, low, high = (value * steps if value is not None else None for value in _of(whole))
    return Epoch(samples=samples, steps=steps, seconds=Range(whole.floor * steps, expected, low, high))


def _of(seconds: Range) -> tuple[float | None, float | None, float | None]:
    return seconds.expected, seconds.low, seconds.high


def _whole(parts: list[Range]) -> tuple[float | None, float | None, float | None]:
    columns = zip(*(_of(part) for part in parts), strict=True)
    expected, low, high = (
        sum(value for value in column if value is not None) if None not in column else None
        for column in columns
    )
    return expected, low, high


def _per_second(name: str, unit: str, count: float, seconds: Range) -> Rate:
    """Return `count` per second as a rate, whose low end comes from the longest time."""
    expected, low, high = (count / value if value else None for value in _of(seconds))
    return Rate(name, unit, expected, high, low)
