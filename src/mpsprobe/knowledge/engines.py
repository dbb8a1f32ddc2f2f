"""Engines beside PyTorch that run models on a Mac's GPU, and what was published of their speed. Free of torch.

Data: `data/engines.toml`, fitted on `data/engine_points.jsonl`; `benchmarks/engines.py` states how far they are off.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

from mpsprobe import toml

_DATA = Path(__file__).parent / "data"
_FILE, _POINTS = _DATA / "engines.toml", _DATA / "engine_points.jsonl"


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine.

    Attributes:
        name: `"MLX"` or `"llama.cpp"`.
        share: of the memory bandwidth that decoding reaches.
        overhead_ms: a token's own cost, milliseconds.
        mixture: how many times as long a mixture of experts takes for the weights that it reads.
        low, high: measured rate over expected rate: four in five points lie between.
        compute_share: of the ALUs' float32 peak that prompts and diffusion reach.
        bits: stored bits of a weight, by the name of the quantisation.
        table: address of its own published measurements.
        how: commands that run a model with it.
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
        """Return the expected seconds of a token.

        Args:
            bandwidth: of the Mac's memory, bytes/s.
            parameters: that a token reads.
            bits: of a stored weight.
            mixture: they are those of the experts chosen among many.
        """
        reading = parameters * bits / 8 / (self.share * bandwidth)
        return reading * (self.mixture if mixture else 1.0) + self.overhead_ms * 1e-3


class PublishedRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published rate of one stream.

    Attributes:
        engine: its name.
        chip: as macOS writes it.
        model: what ran.
        params_b: parameters that a token reads, 10^9.
        bits: of a stored weight.
        tokens_per_second: while decoding.
        source, date: where and when.
        gpu_cores: of the chip; None where it is not stated.
        held_out: not used for the fit.
        added: day on which it was found, for those found after the constants had first been set.
        first: the rate that was expected of it then.
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
        """Whether its name says that it has active experts: `"35B-A3B"`."""
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
    """Return the engine of a name that the data file has."""
    return next(one for one in _file().engines if one.name == name)


def points(engine_name: str) -> list[PublishedRate]:
    """Return what was published of an engine."""
    return [one for one in _points() if one.engine == engine_name]
