"""Time until a model is there: its weights over the network, and from the disk to the GPU.

Neither follows from a model: the rates are those of `knowledge.cloud`. Download is an assumption; loading goes by
published timings of `from_pretrained` and `safetensors` on Macs, which lie far apart.
"""

from __future__ import annotations

from mpsprobe.knowledge.cloud_prices import Network
from mpsprobe.run import Range, TimePart

#: Bytes/s of a download: a home line of 50 Mbit/s, and one of 1 Gbit/s. Assumptions.
_SLOW_LINE, _FAST_LINE = 6.25e6, 125e6
#: The fastest network port of a Mac, 10 Gbit/s.
_PORT = 1.25e9
#: Bytes/s of loading: the slowest published (0.52 GB/s, Mistral 7B on an M5 with little memory free) with room below,
#: and a file that macOS holds in memory (7 GB/s, M5 Pro: https://github.com/huggingface/safetensors/pull/756).
_SLOW_LOAD, _FAST_LOAD = 0.35e9, 7e9


def transfers(weights: int, bandwidth: float, network: Network) -> list[TimePart]:
    """Download and load.

    Args:
        weights: bytes.
        bandwidth: of the Mac's memory, bytes/s: loading writes each weight once.
        network: the expected rates.
    """
    return [
        _part("download", "network", weights, _PORT, _FAST_LINE, network.home_down, _SLOW_LINE),
        _part("load", "disk", weights, bandwidth, _FAST_LOAD, network.mac_load, _SLOW_LOAD),
    ]


def _part(
    name: str, bound: str, weights: int, limit: float, fast: float, expected: float, slow: float
) -> TimePart:
    """Return one of them; a rate that a user states may lie outside of the assumed range."""
    low, high = max(fast, expected), min(slow, expected)
    return TimePart(
        name=name,
        seconds=Range(weights / max(limit, low), weights / expected, low=weights / low, high=weights / high),
        bound=bound,
        bytes=weights,
    )
