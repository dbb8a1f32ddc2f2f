"""Engines beside PyTorch that run models on a Mac's GPU, and what was published of their speed. Free of torch.

Data: `data/engines.toml`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec

from mpsprobe import toml

_FILE = Path(__file__).parent / "data" / "engines.toml"


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One engine.

    Attributes:
        name: `"MLX"` or `"llama.cpp"`.
        share: of the memory bandwidth that decoding reaches.
        overhead_ms: a token's own cost, milliseconds.
        low, high: measured rate over expected rate: four in five points lie between.
        compute_share: of the ALUs' float32 peak that prompts and diffusion reach.
        bits: stored bits of a weight, by the name of the quantisation.
        table: address of its own published measurements.
        how: commands that run a model with it.
    """

    name: str
    share: float
    overhead_ms: float
    low: float
    high: float
    compute_share: float
    bits: dict[str, float]
    table: str
    how: str

    def seconds_per_token(self, bandwidth: float, parameters: float, bits: float) -> float:
        """Return the expected seconds of a token.

        Args:
            bandwidth: of the Mac's memory, bytes/s.
            parameters: that a token reads.
            bits: of a stored weight.
        """
        return parameters * bits / 8 / (self.share * bandwidth) + self.overhead_ms * 1e-3


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
    """

    engine: str
    chip: str
    model: str
    params_b: float
    bits: float
    tokens_per_second: float
    source: str
    date: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    engines: list[Engine]
    points: list[PublishedRate]


@functools.cache
def _file() -> _File:
    return toml.load(_FILE, _File)


def engine(name: str) -> Engine:
    """Return the engine of a name that the data file has."""
    return next(one for one in _file().engines if one.name == name)


def points(engine_name: str) -> list[PublishedRate]:
    """Return what was published of an engine."""
    return [one for one in _file().points if one.engine == engine_name]
