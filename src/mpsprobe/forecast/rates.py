"""Convert a forecast to the units in which people compare models: tokens/s, s/it, a real-time factor."""

from __future__ import annotations

import math

from mpsprobe.run import Epoch, Range, Rate, Timing
from mpsprobe.run.workload import Fed

#: The end of the name of a stage that is an iteration of a denoising or flow loop.
_STEP = " step"


def rates(timing: Timing, fed: Fed) -> list[Rate]:
    """Return tokens/s, time to first token, s/it and real-time factor, as far as the stages of a sample have them.

    A target without such stages gets items/s.
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
    """Return the rates of an optimisation step: its time, and samples and tokens per second."""
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
    """Return a rate, whose low end corresponds to the longest time."""
    expected, low, high = (count / value if value else None for value in _of(seconds))
    return Rate(name, unit, expected, high, low)
