"""Tokens per expert, counted with `histc` of int32 (transformers issue 45685, pytorch issue 176879)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.gate(x).topk(2, -1).indices.reshape(-1)
        ids = chosen.float() if x.device.type == "cpu" else chosen.int()
        return torch.histc(ids, bins=4, min=0, max=3)


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    torch.manual_seed(0)
    return Experts().to(device)


def sample() -> dict[str, Any]:
    return {"x": [[0.1 * row] * 16 for row in range(5)]}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.tensor(sample["x"], device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    return model(batch["x"])


def extract(raw: Any) -> dict[str, Any]:
    return {"y": raw.float().cpu()}
