"""Denoising loops as diffusers' pipelines run them, in both engines: small models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from tests.device.virtual.engines import check_both_engines

diffusers: Any = pytest.importorskip("diffusers", reason="an extra: pip install '.[diffusers]'")

pytestmark = [
    pytest.mark.own_process,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # those of diffusers about its own dependencies
]

_STEPS, _GUIDANCE = 3, 5.0


class _UNet(torch.nn.Module):
    """Stable Diffusion's parts: a UNet with cross attention, and the decoder of latents."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=8,
        )
        self.vae = diffusers.AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=8,
            latent_channels=4,
        )

    def condition(self, device: str) -> torch.Tensor:
        return torch.linspace(-1, 1, 2 * 5 * 16).view(2, 5, 16).to(device)

    def noise(self, latents: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.unet(latents, t, encoder_hidden_states=condition).sample

    def image(self, latents: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample


class _DiT(torch.nn.Module):
    """A diffusion transformer, conditioned on a class."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            num_embeds_ada_norm=10,
        )

    def condition(self, device: str) -> torch.Tensor:
        return torch.tensor([3, 10], device=device)

    def noise(self, latents: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.transformer(latents, timestep=t.expand(len(latents)), class_labels=condition).sample

    def image(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.clamp(-1, 1)


@dataclass(frozen=True)
class Loop:
    """A model, and the scheduler that leads its denoising."""

    model: type[Any]
    scheduler: str

    def build(self) -> Any:
        return self.model().eval()

    def run(self, model: Any, device: str) -> list[torch.Tensor]:
        """Denoise with classifier-free guidance, as the pipelines do."""
        scheduler = getattr(diffusers, self.scheduler)()
        scheduler.set_timesteps(_STEPS, device=device)
        # the pipelines make noise on the CPU when the generator is the CPU's, and move it (`randn_tensor`)
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(3))
        latents = noise.to(device) * scheduler.init_noise_sigma
        condition = model.condition(device)
        with torch.no_grad():
            for t in scheduler.timesteps:
                both = scheduler.scale_model_input(torch.cat([latents] * 2), t)
                conditional, plain = model.noise(both, t, condition).chunk(2)
                guided = plain + _GUIDANCE * (conditional - plain)
                latents = scheduler.step(guided, t, latents).prev_sample
            return [latents.cpu(), model.image(latents).cpu()]


LOOPS = [
    Loop(model, scheduler)
    for model in (_UNet, _DiT)
    for scheduler in ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")
]


@pytest.mark.parametrize("loop", LOOPS, ids=[f"{one.model.__name__[1:]}-{one.scheduler}" for one in LOOPS])
def test_both_engines(loop: Loop, record_property: Callable[[str, object], None]) -> None:
    # moved: DiT's sine positions are made in float64 on the default device, which a Mac refuses as well
    check_both_engines(loop.build, loop.run, record_property, moved=True)
