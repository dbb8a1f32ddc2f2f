"""Cases as small as a question needs them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpsprobe.knowledge.cloud_prices import VARIABLE, current, load
from mpsprobe.routes.case import Case
from mpsprobe.run import (
    Check,
    DeviceChoice,
    Evidence,
    Fit,
    Forecast,
    Host,
    Mac,
    Memory,
    MemoryPart,
    OpUse,
    OpVerdict,
    Range,
    Run,
    Target,
    TensorMeta,
    Timing,
)

GIB = 2**30
#: The owner's offers, plan and rates.
OPTIONS_ANALYSIS = Path(__file__).parent / "options_analysis.toml"
LINUX = Host(system="Linux", machine="x86_64", os_version="6.8")
#: The owner's target: bytes of its weights in bfloat16.
ALPAMAYO_BYTES = 22_157_052_388


def use(
    op: str = "aten::mm",
    verdict: OpVerdict = OpVerdict.NATIVE,
    *,
    count: int = 1,
    module: str = "model",
    source: str = "transformers/models/llama/modeling_llama.py:10",
    shapes: Sequence[tuple[int, ...]] = ((2, 3), (3, 4)),
    outputs: Sequence[tuple[int, ...]] = ((2, 4),),
    dtype: str = "float32",
    **more: Any,
) -> OpUse:
    return OpUse(
        op=op,
        inputs=[tensor(shape, dtype) for shape in shapes],
        outputs=[tensor(shape, dtype) for shape in outputs],
        verdict=verdict,
        count=count,
        module=module,
        source=source,
        **more,
    )


def tensor(shape: tuple[int, ...], dtype: str = "float32") -> TensorMeta:
    return TensorMeta(dtype, shape, tuple(math.prod(shape[at + 1 :]) for at in range(len(shape))))


def memory(fit: Fit = Fit.COMFORTABLE, needed: int = 20 * GIB, **more: Any) -> Memory:
    values: dict[str, Any] = {
        "parts": [MemoryPart("weights", needed, "as built", Evidence.PREDICTED)],
        "needed_bytes": needed,
        "available_bytes": 64 * GIB,
        "working_set_bytes": 48 * GIB,
        "limit_bytes": 80 * GIB,
        "fit": fit,
    }
    return Memory(**{**values, **more})


def timing(hardware: str, floor: float, expected: float | None = None, share: float | None = None) -> Timing:
    high = None if expected is None else 1.5 * expected
    return Timing(
        hardware=hardware,
        basis="specification",
        parts=[],
        per_sample=Range(floor, expected, expected, high),
        native_time_share=share,
    )


def case(
    uses: Sequence[OpUse] = (),
    *,
    torch: str = "2.8.0",
    macos: str | None = "15.5",
    held: Memory | None = None,
    time: Timing | None = None,
    elsewhere: Sequence[Timing] = (),
    checks: Sequence[Check] = (),
    weight_bytes: int | None = ALPAMAYO_BYTES,
    device: str = "predicted",
    host: Host = LINUX,
    known: bool = True,
    target: Target | None = None,
    **more: Any,
) -> Case:
    asked = Mac(torch, macos, "Apple M1 Max", 64.0)
    run = Run(
        mpsprobe="0",
        id="1",
        started="2026-11-22T13:15:00Z",
        target=target or Target(name="target", profile="transformers", weight_bytes=weight_bytes),
        host=host,
        device=DeviceChoice(device, device, ""),
        mac=asked,
        checks=list(checks),
        op_uses=list(uses),
    )
    forecast = None
    if known:
        forecast = Forecast(
            mac=asked,
            evidence=Evidence.PREDICTED,
            memory=held if held is not None else memory(),
            time=time,
            elsewhere=list(elsewhere),
        )
    more.setdefault("cloud", current() if os.environ.get(VARIABLE) else load(OPTIONS_ANALYSIS))
    return Case(run=run, forecast=forecast, **more)
