"""The functions that PyTorch builds differently for a Mac take the Mac's way, with the CPU's values and gradients."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpsprobe.device.virtual import schema
from mpsprobe.device.virtual.observer import Quiet
from mpsprobe.device.virtual.session import emulate

pytestmark = pytest.mark.own_process


class _Ops(Quiet):
    def __init__(self) -> None:
        self.names: set[str] = set()

    def op(self, func: Any, args: Any, kwargs: Any, result: Any, flags: int) -> None:
        self.names.add(str(func))


@pytest.mark.parametrize("release", ["2.6", "2.8", "2.13"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_trained(release: str, affine: bool, dtype: torch.dtype) -> None:
    """MPS has `_fused_rms_norm` without a backward: values and gradients are those of the CPU all the same."""
    torch.manual_seed(0)
    plain = nn.RMSNorm((3, 8), elementwise_affine=affine).to(dtype)
    if affine:
        nn.init.normal_(plain.weight)
    x, into = torch.randn(2, 3, 8, dtype=dtype), torch.randn(2, 3, 8, dtype=dtype)

    def train(module: nn.Module, device: str) -> list[Tensor]:
        leaf = x.detach().to(device).requires_grad_()
        result = module(leaf)
        return [result, *torch.autograd.grad(result, [leaf, *module.parameters()], into.to(device))]

    expected = train(copy.deepcopy(plain), "cpu")
    with emulate(release, fallback=False) as session:
        module = copy.deepcopy(plain).to("mps")
        for one, wanted in zip(train(module, "mps"), expected, strict=True):
            torch.testing.assert_close(one.cpu(), wanted)
        with torch.no_grad():
            torch.testing.assert_close(module(x.to("mps")).cpu(), expected[0])
        with pytest.raises(RuntimeError, match="normalized_shape"):
            module(torch.ones(2, 4, device="mps"))
        assert not session.findings


@pytest.mark.skipif(
    schema.overload_named("_fused_rms_norm") is None, reason="the installed PyTorch has no such op"
)
@pytest.mark.parametrize(
    ("release", "case", "fused"),
    [
        ("2.13", "plain", True),
        ("2.8", "plain", True),
        ("2.7", "plain", False),  # the same code, but no op yet
        ("2.13", "no weight", False),
        ("2.8", "no weight", False),
        ("2.13", "channels last", False),
        ("2.8", "channels last", True),
        ("2.13", "two dtypes", False),
        ("2.8", "two dtypes", True),
        ("2.13", "gradients", False),
        ("2.13", "gradients of the weight", False),
    ],
)
def test_rms_norm_takes_its_fused_op(release: str, case: str, fused: bool) -> None:
    """The conditions are those of the Mac libraries' `rms_norm_symint` (wheels of 2.8, 2.9, 2.13 and 2.15)."""
    x = torch.randn(2, 3, 4, 8)
    if case == "channels last":
        x = x.to(memory_format=torch.channels_last)
    module = nn.RMSNorm(8, elementwise_affine=case != "no weight")
    expected = module.half()(x.half()) if case == "two dtypes" else module(x)
    seen = _Ops()
    with emulate(release, observer=seen, fallback=False), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        on_device = copy.deepcopy(module).float().to("mps")
        moved = x.to("mps", torch.float16 if case == "two dtypes" else torch.float32)
        with torch.set_grad_enabled("gradients" in case):
            result = on_device(moved.requires_grad_(case == "gradients"))
        torch.testing.assert_close(result.cpu().detach(), expected.detach())
    assert ("aten._fused_rms_norm.default" in seen.names) is fused
    if case == "two dtypes" and schema.composite_key("aten::_fused_rms_norm"):
        assert any("Mismatch dtype" in str(one.message) for one in caught) is not fused


@pytest.mark.parametrize("release", ["2.6", "2.13"])
def test_a_gradient_without_memory_has_some(release: str) -> None:
    """The gradient of `sgn` is an `_efficientzerotensor`, whose memory is none; reading it ended the process."""
    with emulate(release, fallback=False):
        x = torch.randn(1000, device="mps", requires_grad=True)
        (gradient,) = torch.autograd.grad(x.sgn(), x, torch.ones_like(x))
        assert gradient.untyped_storage().nbytes() == 4000
        assert not gradient.cpu().any()
