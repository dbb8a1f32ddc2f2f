"""Estimate speed and memory of a target in MLX and llama.cpp on the target Mac, from published measurements."""

from __future__ import annotations

from dataclasses import dataclass

from mpsprobe.errors import UsageError
from mpsprobe.forecast.memory import judge
from mpsprobe.knowledge import engines
from mpsprobe.knowledge.engines import Engine
from mpsprobe.mac import named
from mpsprobe.quantities import decimal_size
from mpsprobe.routes.case import Case
from mpsprobe.run import Fit, Table, TimePart

#: The phrase for each fit, as reports show it.
FITS = {Fit.COMFORTABLE: "fits easily", Fit.TIGHT: "tight", Fit.NO: "no", Fit.UNKNOWN: "unknown"}
#: A model in which a token reads less than this share of the parameters is a mixture of experts.
_MIXTURE = 0.6
#: The bounds of measured seconds divided by expected ones of a diffusion's step: too few are published to hold any out.
_DIFFUSION = (0.6, 1.6)
#: The beginnings of model types most of whose layers keep a recurrent state.
_HYBRIDS = ("qwen3_next", "qwen3_5", "qwen3_6", "qwen3_8")


@dataclass(frozen=True)
class Speed:
    """The expected memory and speed of a target in one engine with one quantisation.

    Attributes:
        engine: The name of the engine.
        quantisation: The name of the quantisation.
        needed: The memory needed in bytes: the weights at those bits plus all else as forecast; None when
            unknown.
        fit: Whether that memory fits.
        unit: `"tokens/s"` or `"s/it"`; empty where no rate can be derived.
        expected: The expected rate in `unit`; None when unknown.
        low: The lower bound of the rate in `unit`; None when unknown.
        high: The upper bound of the rate in `unit`; None when unknown.
    """

    engine: str
    quantisation: str
    needed: int | None
    fit: Fit
    unit: str = ""
    expected: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        """Return the rate with its range, such as `15.7 tokens/s (12.2 - 18.8)`, or `unknown`."""
        if self.expected is None or self.low is None or self.high is None:
            return "unknown"
        return f"{self.expected:.3g} {self.unit} ({self.low:.3g} - {self.high:.3g})"


def speeds(case: Case, engine_name: str) -> list[Speed]:
    """Return a target's speed in an engine for each of its quantisations; empty where memory is not forecast."""
    engine = engines.engine(engine_name)
    parameters = case.run.target.parameters
    memory = case.forecast.memory if case.forecast else None
    if (
        parameters is None
        or memory is None
        or memory.available_bytes is None
        or memory.working_set_bytes is None
    ):
        return []
    weights = case.run.target.weight_bytes or 0
    rest = max(0, (memory.needed_bytes or weights) - weights)
    found = []
    for name, bits in engine.bits.items():
        needed = round(parameters * bits / 8) + rest
        fit = judge(needed, memory.working_set_bytes, memory.available_bytes)[0]
        found.append(_speed(case, engine, name, bits, needed, fit))
    return found


def _speed(case: Case, engine: Engine, name: str, bits: float, needed: int, fit: Fit) -> Speed:
    bare = Speed(engine.name, name, needed, fit)
    mac = _mac_of(case)
    time = case.forecast.time if case.forecast else None
    if mac is None or time is None or fit is Fit.NO:
        return bare
    chip, bandwidth, peak = mac
    decode = next((part for part in time.parts if part.name == "decode" and part.repeats), None)
    if decode is not None:
        active, stored = active_parameters(decode), case.run.target.parameters or 0
        mixture = active < _MIXTURE * stored
        seconds = engine.seconds_per_token(
            chip, bandwidth, active, bits, mixture=mixture, hybrid=case.architecture.startswith(_HYBRIDS)
        )
        rate = 1 / seconds
        low, high = engine.range(mixture=mixture)
        return Speed(engine.name, name, needed, fit, "tokens/s", rate, low * rate, high * rate)
    step = next((part for part in time.parts if part.name.endswith(" step") and part.repeats > 1), None)
    if step is not None and step.flops and peak is not None and engine.name == "MLX":
        each = step.flops / step.repeats / engine.compute(chip, peak)
        low, high = _DIFFUSION
        return Speed(engine.name, name, needed, fit, "s/it", each, low * each, high * each)
    return bare


def active_parameters(decode: TimePart) -> float:
    """Return the number of parameters that a decoded token reads: half the FLOPs of a step, one multiply-add each."""
    return (decode.flops or 0) / decode.repeats / 2


def _mac_of(case: Case) -> tuple[str, float, float | None] | None:
    """Return chip, bandwidth (bytes/s) and float32 peak (FLOP/s) of the target Mac; None when the Mac is unknown."""
    time = case.forecast.time if case.forecast else None
    if time is None:
        return None
    try:
        mac = named(time.hardware)
    except UsageError:  # a calibrated device is not in the catalogue
        return None
    return mac.chip, mac.bandwidth, mac.f32_flops


def table(found: list[Speed]) -> Table:
    """Return the speeds as the table that a report shows."""
    rows: list[list[str | int | float | bool | None]] = [
        [
            one.engine,
            one.quantisation,
            decimal_size(one.needed) if one.needed else None,
            FITS[one.fit],
            one.words,
        ]
        for one in found
    ]
    return Table(["engine", "weights", "memory", "fits", "expected (range)"], rows)
