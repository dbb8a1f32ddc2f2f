"""Train a diffusion policy: one optimisation step as a training loop in robotics takes it.

    mpsprobe predict examples/training/policy.py --train full --mac m2-24 --batch 32 --samples 20000
    mpsprobe run examples/training/policy.py --train full --device emulated --torch 2.8

A ResNet-like encoder sees two camera pictures, a transformer removes noise from a chunk of 16 actions. Weights are
random; the sizes are those of a small policy.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIONS, CHUNK, STATE, LEVELS = 7, 16, 14, 100


class Eyes(nn.Module):
    """Turns a picture into a few tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 7, stride=4, padding=3), nn.GroupNorm(8, 32), nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Conv2d(64, width, 3, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, picture: Tensor) -> Tensor:
        """Return tokens (batch, places, width) of pictures (batch, 3, height, width)."""
        tokens: Tensor = self.layers(picture).flatten(2).transpose(1, 2)
        return tokens


class Policy(nn.Module):
    """Names the noise in a chunk of actions, from what is seen."""

    def __init__(self, width: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.eyes = Eyes(width)
        self.state = nn.Linear(STATE, width)
        self.enter = nn.Linear(ACTIONS, width)
        self.level = nn.Embedding(LEVELS, width)
        self.place = nn.Parameter(torch.zeros(1, CHUNK, width))
        layer = nn.TransformerDecoderLayer(
            width, nhead=4, dim_feedforward=4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.mix = nn.TransformerDecoder(layer, layers)
        self.leave = nn.Linear(width, ACTIONS)

    def forward(self, pictures: Tensor, state: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """Return the noise (batch, CHUNK, ACTIONS) in noisy actions of that shape."""
        batch = pictures.shape[0]
        seen = self.eyes(pictures.flatten(0, 1)).reshape(batch, -1, self.level.embedding_dim)
        memory = torch.cat([seen, self.state(state)[:, None], self.level(level)[:, None]], dim=1)
        noise: Tensor = self.leave(self.mix(self.enter(noisy) + self.place, memory))
        return noise


def load(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """Make the policy with random weights."""
    torch.manual_seed(0)
    return Policy().to(device=device, dtype=dtype)


def sample() -> dict[str, Tensor]:
    """Return 8 moments of a demonstration: pictures, joint states and the actions that followed."""
    seed = torch.Generator().manual_seed(0)
    actions = torch.randn(8, CHUNK, ACTIONS, generator=seed)
    level = torch.randint(LEVELS, (8,), generator=seed)
    kept = torch.linspace(1, 0.02, LEVELS)[level][:, None, None]
    noise = torch.randn(actions.shape, generator=seed)
    return {
        "pictures": torch.rand(8, 2, 3, 96, 96, generator=seed),
        "state": torch.randn(8, STATE, generator=seed),
        "noisy": kept.sqrt() * actions + (1 - kept).sqrt() * noise,
        "level": level,
        "noise": noise,
    }


def infer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Name the noise."""
    named: Tensor = model(**{name: one for name, one in batch.items() if name != "noise"})
    return named


def extract(raw: Tensor) -> dict[str, Tensor]:
    """Return the result on the CPU."""
    return {"noise": raw.float().cpu()}


def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    """Take one step, and return its loss."""
    loss = nn.functional.mse_loss(infer(model, batch), batch["noise"])
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss
