"""Download and load against the project's own experience with a model of 22 GB."""

from __future__ import annotations

from mpsprobe.forecast.build import transfers
from mpsprobe.knowledge import cloud_prices
from mpsprobe.knowledge.cloud_prices import Network

_ALPAMAYO = 22_157_000_000


def test_22_gb_download_in_20_to_30_minutes_and_load_faster() -> None:
    download, load = transfers(_ALPAMAYO, 409.6e9, cloud_prices.shipped().network)
    assert download.seconds.expected is not None
    assert load.seconds.expected is not None
    assert 20 * 60 < download.seconds.expected < 30 * 60
    # Between an SSD that reads 7 GB/s and the 148 MB/s of one published load.
    assert _ALPAMAYO / 7e9 < load.seconds.expected < _ALPAMAYO / 148e6


def test_a_fast_line_stays_within_its_own_range() -> None:
    fast = Network(1e9, 1e9, 1e9, 1e9, "given")
    for part in transfers(10**9, 1e11, fast):
        span = part.seconds
        assert span.expected == 1.0
        assert span.low is not None
        assert span.high is not None
        assert span.floor <= span.low <= span.expected <= span.high
