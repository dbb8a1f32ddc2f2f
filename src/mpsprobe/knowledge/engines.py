"""Other engines that run models on a Mac's GPU, and published measurements of their speed.

The data in `data/engines.toml` is fitted on `data/engine_points.jsonl`; `benchmarks/engines.py` states the errors.
Nothing imports torch.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

from mpsprobe import toml

_DATA = Path(__file__).parent / "data"
_FILE, _POINTS = _DATA / "engines.toml", _DATA / "engine_points.jsonl"
#: The bits of a weight that is not quantised.
_WHOLE = 16


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An engine other than PyTorch that runs models on a Mac's GPU.

    Attributes:
        name: `"MLX"` or `"llama.cpp"`.
        share: The share of the memory bandwidth that decoding reaches, from 0 to 1.
        overhead_ms: The fixed cost of a token in milliseconds.
        mixture: The factor by which reading quantised weights takes longer in a mixture of experts than in a dense
            model.
        low: The lower bound of measured rate divided by expected rate; four in five points lie between `low` and
            `high`.
        high: The upper bound of measured rate divided by expected rate.
        compute_share: The share of the ALUs' float32 peak that prompts and diffusion reach, from 0 to 1.
        bits: The stored bits of a weight, by the name of the quantisation.
        table: The web address of the engine's own published measurements.
        how: The commands that run a model with it.
    """

    name: str
    share: float
    overhead_ms: float
    mixture: float
    low: float
    high: float
    compute_share: float
    bits: dict[str, float]
    table: str
    how: str

    def seconds_per_token(
        self, bandwidth: float, parameters: float, bits: float, *, mixture: bool = False
    ) -> float:
        """Return the expected time of decoding one token in seconds: reading its weights, plus a fixed cost.

        Args:
            bandwidth: The bandwidth of the Mac's memory in bytes per second.
            parameters: The number of parameters that a token reads.
            bits: The bits of a stored weight.
            mixture: Whether the model is a mixture of experts; it matters only below 16 bits.
        """
        reading = parameters * bits / 8 / (self.share * bandwidth)
        slower = self.mixture if mixture and bits < _WHOLE else 1.0
        return reading * slower + self.overhead_ms * 1e-3


class PublishedRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published rate of decoding one sequence.

    Attributes:
        engine: The name of the engine.
        chip: The chip as macOS writes it.
        model: The model that was run.
        params_b: The parameters that a token reads, in 10^9.
        bits: The bits of a stored weight.
        tokens_per_second: The rate of decoding in tokens per second.
        source: Where it was published.
        date: When it was published.
        gpu_cores: The number of GPU cores of the chip; None where it is not stated.
        held_out: Whether the point was left out of the fit.
        added: The day on which it was found, for points found after the constants were first set; else empty.
        first: The rate in tokens per second that the constants of that day predicted; None for points without
            `added`.
    """

    engine: str
    chip: str
    model: str
    params_b: float
    bits: float
    tokens_per_second: float
    source: str
    date: str
    gpu_cores: int | None = None
    held_out: bool = False
    added: str = ""
    first: float | None = None

    @property
    def mixture(self) -> bool:
        """Return whether the model is a mixture of experts, by active parameters in its name: `"35B-A3B"`."""
        return re.search(r"-A\d+B\b", self.model) is not None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engines: list[Engine]


@functools.cache
def _file() -> _File:
    return toml.load(_FILE, _File)


@functools.cache
def _points() -> list[PublishedRate]:
    lines = _POINTS.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=PublishedRate) for line in lines]


def engine(name: str) -> Engine:
    """Return the engine with this name in the data file: `"MLX"` or `"llama.cpp"`.

    Raises:
        StopIteration: The data file has no such engine.
    """
    return next(one for one in _file().engines if one.name == name)


def points(engine_name: str) -> list[PublishedRate]:
    """Return the published measurements of decoding speed for one engine."""
    return [one for one in _points() if one.engine == engine_name]
