"""Estimate the time until a model is loaded: its weights over the network, and from the disk to the GPU.

Neither depends on the model; the rates are those of `knowledge.cloud_prices`. The download rate is an assumption;
the load rate is based on published timings of `from_pretrained` and `safetensors` on Macs, which vary widely.
"""

from __future__ import annotations

from mpsprobe.knowledge.cloud_prices import Network
from mpsprobe.run import Range, TimePart

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
    """Return one of the stages; a rate that a user states may lie outside the assumed range."""
    low, high = max(fast, expected), min(slow, expected)
    return TimePart(
        name=name,
        seconds=Range(weights / max(limit, low), weights / expected, low=weights / low, high=weights / high),
        bound=bound,
        bytes=weights,
    )
