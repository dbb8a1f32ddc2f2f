"""What phases 4 and 5 say of tensors whose dtype MPS lacks, by release.

Truth: the dtypes of each Mac wheel (getMPSDataType), ComfyUI issue 13200 (float8), pytorch issue 176981 (complex128).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mpsprobe.device.emulated import Emulated
from mpsprobe.models.profile import Profile
from mpsprobe.phases import data, transfer
from mpsprobe.phases.check import Result
from mpsprobe.run import Mac, Status

pytestmark = pytest.mark.own_process


def _check(module: Any, name: str, link: Any) -> Result:
    (spec,) = [one for one in module.CHECKS if one.name == name]
    result: Result = spec(link)
    return result


def _loaded(device: Emulated, dtype: torch.dtype) -> transfer.Loaded:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("stored", torch.zeros(4, dtype=torch.uint8).to(dtype))
    unknown: Any = None
    profile = Profile(name="m", title="m", adapter="a:B", dtype="float32")
    return transfer.Loaded(model, unknown, profile, unknown, device, unknown, 0.0)


@pytest.mark.parametrize(
    ("release", "dtype", "status"),
    [
        ("2.8", torch.float8_e4m3fn, Status.FAIL),
        ("2.14", torch.float8_e4m3fn, Status.FAIL),
        ("2.15", torch.float8_e4m3fn, Status.PASS),
        ("2.15", torch.float8_e5m2, Status.FAIL),
        ("2.15", torch.complex128, Status.FAIL),
        ("2.15", torch.float64, Status.FAIL),
        ("2.13", torch.bfloat16, Status.PASS),
        ("2.13", torch.complex64, Status.PASS),
    ],
)
def test_a_buffer_of_a_lacking_dtype_fails_phase_4(release: str, dtype: torch.dtype, status: Status) -> None:
    device = Emulated(Mac(torch=release, macos="15.5"))
    with device.opened():
        result = _check(transfer, "dtypes", _loaded(device, dtype))
    assert result.status is status
    assert (str(dtype)[6:] in result.message and "stored" in result.message) is (status is Status.FAIL)


def test_a_batch_of_float8_is_named_and_still_compared() -> None:
    device = Emulated(Mac(torch="2.8", macos="15.5"))
    with device.opened():
        loaded = _loaded(device, torch.float32)
        batch = {"x": torch.ones(2).to(torch.float8_e5m2)}
        moved = {"x": batch["x"].to("mps")}
        prepared = data.Prepared(loaded, {}, batch, moved, 0.0, 0.0)
        assert _check(data, "moved", prepared).status is Status.PASS
        found = _check(data, "dtypes", prepared)
    assert found.status is Status.FAIL
    assert found.message.startswith("x: float8_e5m2, which no kernel of this release on MPS can read")


def test_bits_are_compared_whatever_the_dtype() -> None:
    first = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    assert transfer.same_bits(first, first.clone())
    assert not transfer.same_bits(first, torch.tensor([1.0, 3.0]).to(torch.float8_e4m3fn))
    assert transfer.same_bits(torch.ones(1), torch.ones(1))
