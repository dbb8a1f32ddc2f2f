"""Train a UNet of diffusers: one step of its text-to-image loop, noise prediction with min-SNR weights.

    mpsprobe predict examples/training/unet.py --train full --mac m2-24 --samples 5000
    mpsprobe run examples/training/unet.py --train full --device emulated --torch 2.8

The weights are random and small. For yours: UNet2DConditionModel.from_pretrained(FOLDER, subfolder="unet").
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

SCHEDULER = DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear")


def load(device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """Make the UNet with random weights."""
    torch.manual_seed(0)
    model: Any = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    placed: nn.Module = model.to(device=device, dtype=dtype)
    return placed


def sample() -> dict[str, Tensor]:
    """Return latents of pictures, embeddings of their texts, and for each a moment and its noise."""
    seed = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, 16, 16, generator=seed)
    noise = torch.randn(latents.shape, generator=seed)
    moment = torch.randint(1000, (4,), generator=seed)
    kept = SCHEDULER.alphas_cumprod[moment]
    ratio = kept / (1 - kept)
    return {
        "sample": SCHEDULER.add_noise(latents, noise, moment),
        "timestep": moment,
        "encoder_hidden_states": torch.randn(4, 77, 32, generator=seed),
        "noise": noise,
        "weight": ratio.clamp(max=5.0) / ratio,  # arXiv 2303.09556
    }


def infer(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the noise that the UNet finds."""
    found: Tensor = model(batch["sample"], batch["timestep"], batch["encoder_hidden_states"]).sample
    return found


def extract(raw: Tensor) -> dict[str, Tensor]:
    """Return the result on the CPU."""
    return {"noise": raw.float().cpu()}


def train_step(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Tensor:
    """Take one step, and return its loss."""
    each = (infer(model, batch).float() - batch["noise"].float()).square().mean(dim=(1, 2, 3))
    loss = (each * batch["weight"]).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss
