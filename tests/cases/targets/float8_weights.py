"""A checkpoint in float8, as ComfyUI holds it: weights moved as they are, cast for each call (ComfyUI issue 13200)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Float8Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs, device="cpu").to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Float8Linear(8, 16), nn.GELU(), Float8Linear(16, 4)).to(device)


def sample() -> dict[str, Any]:
    return {"x": [[0.1] * 8]}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.tensor(sample["x"], device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    return model(batch["x"])


def extract(raw: Any) -> dict[str, Any]:
    return {"y": raw.float().cpu()}
