"""The published points that forecasts are checked on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.knowledge import chips, speed
from mpsprobe.mac import named

_FILE = Path(speed.__file__).parent / "data" / "mac_points.jsonl"


def _points() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]


def _told(point: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = point.get("replay") or point.get("op") or {}
    return told


def test_every_point_names_its_source_and_date() -> None:
    for point in _points():
        assert point["url"], point
        assert point["date"] if "added" in point else True, point
        assert point["unit"], point


def test_a_point_that_is_forecast_has_a_known_mac_of_its_chip() -> None:
    for point in _points():
        told = _told(point)
        if told:
            mac = named(told["mac"], "15.5")
            found = chips.find(point["chip"].replace("M3 Air", "M3"))
            assert found is not None
            assert mac.chip == found.name, point


def test_later_points_keep_their_first_forecast() -> None:
    points = _points()
    later = [point for point in points if "added" in point]
    assert len(later) >= 50
    old = {point["url"] for point in points if "added" not in point and _told(point)}
    for point in later:
        assert point["url"] not in old or "op" in point
        first = _told(point)["first"]
        assert 0 < first["low"] < first["expected"] < first["high"]


@pytest.mark.parametrize("held_out", [True, False])
def test_both_halves_of_the_later_points_are_large(held_out: bool) -> None:
    half = [point for point in _points() if "added" in point and _told(point)["held_out"] is held_out]
    assert len(half) >= 20
