"""Attention whose scores are one buffer of 19.38 GiB (kijai/ComfyUI-SUPIR issues 151 and 210)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SHAPE = (2, 10, 16128, 64)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x * self.scale, x, x)


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    with torch.device(device):
        return Attention().to(dtype)


def sample() -> dict[str, Any]:
    return {"n": 1}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"i": torch.zeros(1, device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    with torch.no_grad():
        return model(torch.zeros(SHAPE, device=batch["i"].device, dtype=model.scale.dtype))


def extract(raw: Any) -> dict[str, Any]:
    return {"e": raw.flatten()[:1].float().cpu()}
