"""Guidance: a gradient is taken while the target infers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2).to(device)


def sample() -> dict[str, Any]:
    return {"x": [[1.0, 2.0, 3.0, 4.0]]}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.tensor(sample["x"], device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    with torch.inference_mode(False), torch.enable_grad():
        x = batch["x"].clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).pow(2).sum(), x)
    return gradient


def extract(raw: Any) -> dict[str, Any]:
    return {"g": raw.float().cpu()}
