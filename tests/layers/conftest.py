from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpsprobe.layers.supervised import Job
from mpsprobe.options import OPTIONS, Settings

PROFILE = """
name = "planted"
title = "A planted fault"
adapter = "tests.layers.planted:Planted"
builder = "tests.layers.planted:{builder}"
dtype = "{dtype}"
attention = ""
sample = {{ fault = "{fault}", seed = {seed} }}
limits = {{ inference = {limit} }}
"""

MakeJob = Callable[..., Job]


@pytest.fixture
def planted(tmp_path: Path) -> MakeJob:
    """A job on the planted target, on the CPU."""

    def make(
        fault: str = "",
        dtype: str = "float32",
        builder: str = "build",
        seed: int = 3,
        limit: float = 60,
        **more: Any,
    ) -> Job:
        profile = tmp_path / f"{fault or 'sound'}-{dtype}-{builder}-{seed}.toml"
        profile.write_text(PROFILE.format(fault=fault, dtype=dtype, builder=builder, seed=seed, limit=limit))
        names = {option.name for option in OPTIONS}
        given = {name: more.pop(name) for name in list(more) if name in names}
        return Job(settings=Settings(device="cpu", profile=str(profile), **given), **more)

    return make


def no_announcement(_text: str, _limit_s: float) -> None:
    """For `diverge` and `write`: nobody is told."""
