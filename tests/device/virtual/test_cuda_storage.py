"""Values in CUDA memory: the same rules, CUDA's results."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mpsprobe.device.virtual.cpp import relabel
from mpsprobe.device.virtual.session import emulate
from mpsprobe.errors import VirtualDeviceError
from tests.device.virtual.llama import tiny_llama

pytestmark = pytest.mark.own_process

needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available() or relabel.LEGACY, reason="needs a CUDA device and torch 2.9 or newer"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    with (
        pytest.raises(VirtualDeviceError, match=r"no CUDA device|torch 2\.9 or newer"),
        emulate(storage="cuda"),
    ):
        pass


@needs_cuda
def test_values_live_on_the_gpu() -> None:
    before = torch.cuda.memory_allocated(0)
    with emulate(storage="cuda"):
        x = torch.ones(1 << 20, device="mps")
        assert x.device == torch.device("mps:0")
        assert torch.cuda.memory_allocated(0) - before >= x.numel() * x.element_size()
        assert not torch.cuda.is_available()
        assert (x + 1).sum().item() == 1 << 21
    assert torch.cuda.is_available()


@needs_cuda
def test_generation_equals_plain_cuda() -> None:
    torch.manual_seed(0)
    model = tiny_llama()
    ids = torch.arange(3, 9)[None]
    expected = _generate(copy.deepcopy(model), ids, "cuda")
    with emulate(storage="cuda", fallback=False):
        found = _generate(copy.deepcopy(model), ids, "mps")
    # Attention decomposes as on MPS and not into CUDA's fused kernel: sums in another order.
    assert torch.equal(found[:, : ids.shape[1] + 8], expected[:, : ids.shape[1] + 8]), "the tokens"
    torch.testing.assert_close(found, expected)


def _generate(model: Any, ids: torch.Tensor, device: str) -> torch.Tensor:
    with torch.no_grad():
        ids = ids.to(device)
        mask = torch.ones_like(ids)
        out = model.to(device).generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        return torch.cat([out.cpu().float(), model(ids).logits.cpu().flatten()[None]], 1)


@needs_cuda
def test_training_equals_plain_cuda() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten(), nn.Linear(144, 2))
    batch = torch.randn(2, 3, 8, 8)
    expected = _train(copy.deepcopy(model), batch, "cuda")
    with emulate(storage="cuda", fallback=False):
        got = _train(copy.deepcopy(model), batch, "mps")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def _train(model: nn.Module, batch: torch.Tensor, device: str) -> list[torch.Tensor]:
    model, batch = model.to(device), batch.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    return [parameter.detach().cpu() for parameter in model.parameters()]


@needs_cuda
def test_rules_and_random_numbers() -> None:
    plain = torch.rand(4, generator=torch.Generator("cuda").manual_seed(5), device="cuda").cpu()
    with emulate("2.13", storage="cuda", fallback=False, memory_gb=8):
        seeded = torch.rand(4, generator=torch.Generator("mps").manual_seed(5), device="mps")
        assert torch.equal(seeded.cpu(), plain)
        with pytest.raises(TypeError, match="doesn't support float64"):
            torch.ones(2, dtype=torch.float64).to("mps")
        with pytest.raises(NotImplementedError, match="_linalg_eigh"):
            torch.linalg.eigh(torch.eye(2, device="mps"))
        with pytest.raises(RuntimeError, match="on the same device"):
            seeded + torch.ones(4)
        with pytest.raises(RuntimeError, match="for generator but found 'mps'"):
            torch.rand(2, generator=torch.Generator("mps"))
        with torch.autocast("mps", dtype=torch.float16):
            assert (seeded[None] @ seeded[:, None]).dtype is torch.float16
        with pytest.raises(RuntimeError, match="MPS backend out of memory"):
            _ = [torch.empty(3 << 30, dtype=torch.uint8, device="mps") for _ in range(4)]
