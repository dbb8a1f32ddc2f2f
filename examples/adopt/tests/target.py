"""The model of this repository, as mpsprobe's suite loads and runs it."""

import torch
from torch import nn


def load(device, dtype):
    """Return the model on `device`."""
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))
    return nn.Sequential(*layers).to(device, dtype or torch.float32)


def sample():
    """Return one raw input."""
    return {"x": torch.linspace(-1, 1, 32).reshape(2, 16)}


def infer(model, batch):
    """Return scores of shape (2, 4)."""
    return model(batch["x"].to(next(model.parameters()).dtype))


def extract(raw):
    """Return what a user of the model reads."""
    return {"scores": raw.float().cpu()}
