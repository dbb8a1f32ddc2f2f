"""A model given to torch.compile (lerobot issue 2723, pytorch issue 171764)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4)).to(device)


def sample() -> dict[str, Any]:
    return {"x": [[0.1] * 16]}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.tensor(sample["x"], device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    return torch.compile(model)(batch["x"])


def extract(raw: Any) -> dict[str, Any]:
    return {"y": raw.float().cpu()}
