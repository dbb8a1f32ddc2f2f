"""One training step in float16 with a GradScaler, whose ops came to MPS in 2.8 (pytorch pull request 150255)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def load(device: Any, dtype: Any, weights: str = "stored") -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)).to(device)


def sample() -> dict[str, Any]:
    return {"x": 0}


def prepare(sample: dict[str, Any]) -> dict[str, Any]:
    return {"x": torch.ones(1, 3, 8, 8, device="cpu")}


def infer(model: Any, batch: Any) -> Any:
    device = batch["x"].device.type
    with torch.inference_mode(False), torch.enable_grad():
        model.requires_grad_(True)
        x = batch["x"].clone()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
        scaler = torch.amp.GradScaler(device)
        with torch.autocast(device, dtype=torch.float16):
            loss = model(x).float().pow(2).mean()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
    return loss.detach()


def extract(raw: Any) -> dict[str, Any]:
    return {"loss": raw.float().cpu()}
