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
from mpsprobe.knowledge import chips, speed

_DATA = Path(__file__).parent / "data"
_FILE, _POINTS = _DATA / "engines.toml", _DATA / "engine_points.jsonl"
#: The bits of a weight that is not quantised.
_WHOLE = 16
#: The layers of a mixture of experts: 24 (gpt-oss-20b) to 94 (Qwen3-235B), most of them 47 to 62.
_MIXTURE_LAYERS = 48
#: The GPU family with matrix units.
_MATRIX_UNITS = "apple10"


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An engine other than PyTorch that runs models on a Mac's GPU.

    Attributes:
        name: `"MLX"` or `"llama.cpp"`.
        share: The share of the memory bandwidth that decoding reaches, from 0 to 1.
        layer_ms: The cost of a layer beside reading its weights, in milliseconds on an M1 Max; it falls as the
            single-thread score of the chip rises.
        ultra: The factor by which that cost is higher on a chip of two dies.
        hybrid: The factor by which that cost is higher where most layers keep a recurrent state (Gated DeltaNet).
        mixture: The factor by which reading quantised weights takes longer in a mixture of experts than in a dense
            model.
        low: The lower bound of measured rate divided by expected rate for a dense model; four in five points lie
            between `low` and `high`.
        high: The upper bound of measured rate divided by expected rate for a dense model.
        mixture_low: The lower bound for a mixture of experts.
        mixture_high: The upper bound for a mixture of experts.
        compute_share: The share of the ALUs' float32 peak that prompts and diffusion reach, from 0 to 1.
        matrix_share: The same on chips with matrix units, which surpass that peak (M5 and later).
        bits: The stored bits of a weight, by the name of the quantisation.
        table: The web address of the engine's own published measurements.
        how: The commands that run a model with it.
    """

    name: str
    share: float
    layer_ms: float
    ultra: float
    hybrid: float
    mixture: float
    low: float
    high: float
    mixture_low: float
    mixture_high: float
    compute_share: float
    matrix_share: float
    bits: dict[str, float]
    table: str
    how: str

    def seconds_per_token(
        self,
        chip: str,
        bandwidth: float,
        parameters: float,
        bits: float,
        *,
        mixture: bool = False,
        hybrid: bool = False,
    ) -> float:
        """Return the expected time of decoding one token in seconds: reading its weights, and the cost of each layer.

        The number of layers is not known here. That of dense decoders of 0.5 to 72 billion parameters follows their
        size; mixtures have some 48, whatever their size.

        Args:
            chip: The chip as macOS writes it.
            bandwidth: The bandwidth of the Mac's memory in bytes per second.
            parameters: The number of parameters that a token reads.
            bits: The bits of a stored weight.
            mixture: Whether the model is a mixture of experts; reading takes longer only below 16 bits.
            hybrid: Whether most layers keep a recurrent state.
        """
        reading = parameters * bits / 8 / (self.share * bandwidth)
        slower = self.mixture if mixture and bits < _WHOLE else 1.0
        layers = _MIXTURE_LAYERS if mixture else 19 * (parameters / 1e9) ** 0.35
        scale = (
            speed.host_scale(chip)
            * (self.ultra if chip.endswith("Ultra") else 1.0)
            * (self.hybrid if hybrid else 1.0)
        )
        return reading * slower + layers * self.layer_ms * 1e-3 * scale

    def compute(self, chip: str, peak: float) -> float:
        """Return the expected rate of prompts and diffusion in FLOP/s.

        Args:
            chip: The chip as macOS writes it.
            peak: The peak of its ALUs in float32, in FLOP/s.
        """
        found = chips.find(chip)
        units = found is not None and found.family == _MATRIX_UNITS
        return (self.matrix_share if units else self.compute_share) * peak

    def range(self, *, mixture: bool = False) -> tuple[float, float]:
        """Return the bounds of measured rate divided by expected rate, between which four in five points lie."""
        return (self.mixture_low, self.mixture_high) if mixture else (self.low, self.high)


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

    @property
    def hybrid(self) -> bool:
        """Return whether most layers of the model keep a recurrent state, by the names of its families."""
        return re.search(r"Qwen3\.[5-9]|Qwen3-Next", self.model) is not None


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
